"""Names that differ in Unicode form alone are the same name."""

import unicodedata

from pipeline.core.names import composed, other_forms

NFC, NFD = (unicodedata.normalize(form, "café/Ko\u0308ln.jpg") for form in ("NFC", "NFD"))


def test_both_forms_are_compared_in_one_and_each_knows_the_other() -> None:
    assert NFC != NFD
    assert composed(NFD) == composed(NFC) == NFC
    assert (other_forms(NFC), other_forms(NFD)) == ([NFD], [NFC])
    assert (composed("plain.jpg"), other_forms("plain.jpg")) == ("plain.jpg", [])


def test_a_name_of_both_forms_has_two_others() -> None:
    assert other_forms(NFC + NFD) == [NFC + NFC, NFD + NFD]
