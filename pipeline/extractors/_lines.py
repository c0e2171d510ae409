"""Lines of text in reading order, which OCR adapters share."""

from collections.abc import Sequence

from pipeline.core.records import TextLine


def reading_order(lines: Sequence[TextLine]) -> list[TextLine]:
    """Rows from top to bottom, each from left to right. A line is of the row whose first line's height its middle
    lies in; so it does not matter how large the picture or the writing is."""

    def span(line: TextLine) -> tuple[float, float, float]:
        polygon = line.polygon or ((0.0, 0.0),)
        ys = [y for _, y in polygon]
        return min(ys), max(ys), min(x for x, _ in polygon)

    rows: list[list[TextLine]] = []
    for line in sorted(lines, key=lambda line: (span(line)[0], span(line)[2], line.text)):
        top, bottom, _ = span(line)
        middle = (top + bottom) / 2
        for row in rows:
            first_top, first_bottom, _ = span(row[0])
            if first_top <= middle <= first_bottom and top <= (first_top + first_bottom) / 2:
                row.append(line)
                break
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: (span(line)[2], span(line)[0]))]
