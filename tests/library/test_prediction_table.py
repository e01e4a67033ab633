"""Rows on disk: one a photograph, whatever moment the writer was stopped at."""

import pytest

from ebmlib.prediction_table import PredictionTable, Row, read_rows
from ebmlib.regions import Region

RUN = {"detector_sha256": "1", "photographs": "new", "false_alarm_rate": 0.05}


def rows(*names):
    return [Row.of(name, 1.5, False, 0.25, None) for name in names]


def test_rows_come_back_as_they_were_written(tmp_path):
    strange = 'new/a "b", c\n\udcff.png'  # quotes, commas, a line break, no UTF-8
    written = [
        Row.of(strange, 2.5, True, 0.01, Region(1, 2, 3, 4, 5)),
        Row("new/b.png", problem="empty; copy it again"),
    ]
    table = PredictionTable(tmp_path, RUN)
    table.append(written)
    assert read_rows(table.path) == written
    assert dict(table.counts) == {"anomalous": 1, "unreadable": 1}


def test_whatever_byte_the_table_ends_at_it_goes_on(tmp_path):
    whole = rows("new/0.png", "new/é,\n.png", "new/2.png")
    table = PredictionTable(tmp_path, RUN)
    table.append(whole)
    content = table.path.read_bytes()
    for end in range(content.index(b"\n") + 1, len(content)):
        table.path.write_bytes(content[:end])
        again = PredictionTable(tmp_path, RUN)
        assert read_rows(table.path) == whole[: len(again.done)]
        again.append(whole[len(again.done) :])
        assert read_rows(table.path) == whole


def test_what_could_not_be_read_is_tried_again(tmp_path):
    PredictionTable(tmp_path, RUN).append([*rows("a.png"), Row("b.png", problem="cut")])
    again = PredictionTable(tmp_path, RUN)
    assert again.done == {"a.png"} and len(read_rows(again.path)) == 1


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"detector_sha256": "2"}, "another detector"),
        ({"photographs": "x"}, "other ph"),
    ],
)
def test_rows_of_something_else_are_refused(tmp_path, other, what):
    PredictionTable(tmp_path, RUN).append(rows("a.png"))
    with pytest.raises(ValueError, match=rf"scores\.csv holds the rows of {what}"):
        PredictionTable(tmp_path, RUN | other)


def test_a_table_of_another_kind_is_refused(tmp_path):
    (tmp_path / "scores.csv").write_text("name,value\na,1\n")
    with pytest.raises(ValueError, match="not a table of `ebmlib predict`"):
        read_rows(tmp_path / "scores.csv")


def test_a_full_disk_leaves_no_half_row(tmp_path, monkeypatch):
    table = PredictionTable(tmp_path, RUN)
    table.append(rows("a.png"))
    before = table.path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ebmlib.prediction_table.os.fsync", full)
    with pytest.raises(OSError, match="space"):
        table.append(rows("b.png"))
    assert table.path.read_bytes() == before and table.done == {"a.png"}
