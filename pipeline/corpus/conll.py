"""CoNLL-like files, the one reader of them: for the stages, for prediction and for scoring.

`IMGID:<id>` lines, then a token a line with its label behind a tab, then a blank line.
`-DOCSTART-` lines and comments before a post (`# id …`) are no part of it: they are skipped, and counted.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.labels import Scheme
from pipeline.core.records import Post
from pipeline.corpus.reading import (
    AS_THEY_ARE,
    Labels,
    Portion,
    Problems,
    Throughout,
    final,
    images_of,
    lines_of,
    listed,
    without_mark,
)

_IMAGE = "IMGID:"
_CONTROL = re.compile("-DOCSTART-(?![^\t ])")
_COMMENT = "# "
_LAST = re.compile(rb"(IMGID:[^\t\r]*)?\t*\r?\r?")
_NO_TOKEN = re.compile(rb"\t*\r?\r?$|IMGID:|# |-DOCSTART-|\xef\xbb\xbf")


def each(
    path: str | Path,
    *,
    label_column: int = 2,
    scheme: Scheme = "iob2",
    image_name: str | None = "{id}.jpg",
    types: Mapping[str, str] = AS_THEY_ARE,
    odd: Counter[str] | None = None,
    portion: Portion | None = None,
) -> Iterator[Post]:
    """Read a CoNLL-like file, its posts as they come.

    Lines end in LF or CRLF, byte-order marks before a post are skipped, a line of nothing but tabs counts as blank.
    Several `IMGID` lines in a row name several pictures of one post, whose id is the first. A post without an `IMGID`
    line is called `{file}-{number}` and has no picture. A file of tokens alone gives posts without labels.

    Args:
        path: the file.
        label_column: which column holds the label, from 1.
        scheme: what the labels are written in; they become IOB2.
        image_name: how an id names its picture, or None for no picture.
        types: new names of entity types; types it does not name stay.
        odd: counts what is skipped and what is dropped, by the names of :data:`pipeline.corpus.report.ODD`.
        portion: of the file, where that is read in pieces, which end :func:`after_post`; a post without an `IMGID`
            line then has an empty id, and of its posts is told which seem to be separated by spaces.

    Raises:
        UserError: the file is missing, not UTF-8, or has malformed lines; the first few are named.
    """
    path, known = Path(path), Labels(scheme, types)
    odd = Counter() if odd is None else odd
    by_spaces = Throughout() if portion is None else portion.throughout
    problems, without_tokens = Problems(path), Problems(path)

    def posts() -> Iterator[Post]:
        first: tuple[int, Post] | None = None
        for number, post in parse(
            lines_of(path, portion),
            lambda number, problem: problems.add(f"{path}:{number}: {problem}"),
            known,
            label_column,
            image_name,
            lambda count: f"{path.stem}-{count}" if portion is None else "",
            odd,
        ):
            first = first or (number, post)
            by_spaces.add(by_spaces.such == by_spaces.posts and _is_separated_by_spaces(post, known))
            if not post.tokens:
                shown = post.id if post.id.isprintable() else repr(post.id)
                without_tokens.add(
                    f"{path}:{number}: post {shown} has no tokens; expected token<TAB>label lines, or no post"
                )
            yield post
        if not problems.count and portion is None and first is not None and by_spaces.holds:
            problems.add(_separated_by_spaces(str(path), *first))
        if not problems.count:
            without_tokens.refuse()

    return final(posts(), problems, known, odd)


read = listed(each)


def after_post(data: bytes, start: int) -> int:
    """Where a post of `data` ends, behind byte `start` and as far behind it as can be told; 0: nowhere.

    It ends at a blank line, or before an `IMGID` line, whose line before is a token: what follows is then read as if it
    were a file's beginning. Of other lines, what they are depends on those before.
    """
    end = data.rfind(b"\n", start)
    while end >= start:
        before = data.rfind(b"\n", 0, end)
        if before > 0 and (found := _LAST.fullmatch(data, before + 1, end)):
            token = data.rfind(b"\n", 0, before) + 1
            if not _NO_TOKEN.match(data, token, before):
                return (before if found[1] else end) + 1
        end = before
    return 0


def stream(
    lines: Iterable[tuple[int, str]], name: str, label_column: int = 2, odd: Counter[str] | None = None
) -> Iterator[Post]:
    """Posts as they come, called by their number where they have no `IMGID` line; for prediction.

    Args:
        lines: numbered, without their ends.
        name: what stands for the file in messages.
        label_column: which column holds the label, where there is one.
        odd: counts what is skipped, as for :func:`read`.

    Raises:
        UserError: a line is malformed, with its number.
    """
    known = Labels()

    def refuse(number: int, problem: str) -> None:
        raise UserError(f"{name}:{number}: {problem}")

    for number, post in parse(lines, refuse, known, label_column, None, str, Counter() if odd is None else odd):
        if _is_separated_by_spaces(post, known):
            raise UserError(_separated_by_spaces(name, number, post))
        yield post


def parse(
    lines: Iterable[tuple[int, str]],
    report: Callable[[int, str], None],
    known: Labels,
    label_column: int,
    image_name: str | None,
    name_post: Callable[[int], str],
    odd: Counter[str],
) -> Iterator[tuple[int, Post]]:
    """Yield the posts of numbered lines, their labels as they stand; a malformed line is reported and left out.

    Each comes with the number of the line of its first token, or where it has none, of its first line.

    Args:
        lines: numbered, without their ends.
        report: is told the number of each malformed line, and what is wrong with it.
        known: what the labels are written in.
        label_column: which column holds the label, from 1.
        image_name: how an id names its picture, or None for no picture.
        name_post: the id of a post without one, by its place from 1.
        odd: counts what is skipped.
    """
    current: _Draft | None = None
    count = 0
    after_blank = False
    for number, text in lines:
        line = without_mark(text, odd) if _is_marked(text, current is None) else text
        if line.startswith(_IMAGE) and ("\t" not in line.rstrip("\t") or "\r" in line):  # else a token spelled so
            identifier = line.removeprefix(_IMAGE).rstrip("\t")
            if not identifier or "\r" in identifier:
                report(number, "IMGID: without an id" if not identifier else "the id holds a carriage return")
            if current is not None and not current.tokens and current.ids and not after_blank:
                current.ids.append(identifier)
                continue
            if current is not None:
                count += 1
                yield current.finish(name_post(count), image_name)
            current = _Draft(number, [identifier])
        elif not line.strip("\t") or _CONTROL.match(line):
            odd["control_lines"] += line.startswith("-")
            if current is not None and current.tokens:
                count += 1
                yield current.finish(name_post(count), image_name)
                current = None
            after_blank = True
            continue
        elif _is_comment(line, label_column, known):
            if current is None or not current.tokens:
                odd["comment_lines"] += 1
                continue
            report(number, f"{line!r}: a comment amid a post; expected it before the post's first token")
        else:
            current = current or _Draft(number)
            problem = current.add(number, line.split("\t"), label_column, known)
            if problem:
                report(number, problem)
        after_blank = False
    if current is not None:
        yield current.finish(name_post(count + 1), image_name)


def _is_marked(line: str, between_posts: bool) -> bool:
    """Whether a line begins with a byte-order mark that is no token, nor part of one."""
    rest = line.lstrip("\ufeff")
    return len(rest) < len(line) and (rest.startswith(_IMAGE) or (between_posts and rest[:1] not in ("", "\t")))


def _is_comment(line: str, label_column: int, known: Labels) -> bool:
    """Whether a line is a comment, which may hold tabs, and not a token with a label."""
    return line.startswith(_COMMENT) and not known.among(line.split("\t")[label_column - 1 : label_column])


def _is_separated_by_spaces(post: Post, known: Labels) -> bool:
    """Whether a post without labels has one behind a space in each of its lines."""
    return post.labels is None and bool(post.tokens) and all(known.among(token.split(" ")[1:]) for token in post.tokens)


def _separated_by_spaces(name: str, number: int, post: Post) -> str:
    return (
        f"{name}:{number}: {post.tokens[0]!r} and every other line of the post is separated by spaces; expected "
        "token<TAB>label"
    )


@dataclass(slots=True)
class _Draft:
    """A post that is being read; whether it is labelled, its first line says."""

    number: int
    ids: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    labelled: bool | None = None

    def add(self, number: int, columns: list[str], label_column: int, known: Labels) -> str | None:
        """Take one line's columns; return what is wrong with them, if anything is."""
        if not columns[0]:
            return "no token before the first tab"
        has_label = len(columns) > 1
        if self.labelled is None:
            self.labelled = has_label
        if has_label != self.labelled:
            if has_label:
                return (
                    f"{columns[0]!r} has a label, but the tokens before it do not; expected token<TAB>label throughout"
                )
            return f"{columns[0]!r} has no label, but the tokens before it do; expected token<TAB>label"
        if has_label:
            if len(columns) < label_column:
                return f"{len(columns)} columns, but the label is expected in column {label_column} (data.label_column)"
            label = columns[label_column - 1]
            try:
                known.check(label)
            except ValueError as error:
                return str(error)
            self.labels.append(label)
        if not self.tokens:
            self.number = number
        self.tokens.append(columns[0])
        return None

    def finish(self, default_id: str, image_name: str | None) -> tuple[int, Post]:
        return self.number, Post(
            self.ids[0] if self.ids and self.ids[0] else default_id,
            self.tokens,
            self.labels if self.labelled else None,
            images_of(self.ids, image_name),
        )
