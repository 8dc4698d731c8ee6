"""The training log: rows are appended, and a resumed run drops those that it writes again."""

from pathlib import Path

from indexer.learning.log import TrainingLog

FIGURES = ("loss", "val_loss")


def test_resuming_drops_later_rows_and_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    first = TrainingLog(path, FIGURES, ("zoom", 8))
    second = TrainingLog(path, FIGURES, ("zoom", 6), (8,))
    first.resume((-1, 0))
    for log in (first, second):
        for reached in ((0, 0), (1, 5), (1, 10), (2, 5)):
            log.add(reached, {"loss": 1 / 3})
    with path.open("a") as file:
        file.write("6,2,1")  # cut off by a kill
    second.resume((1, 5))
    rows = [(row["zoom"], row["epoch"], row["step"]) for row in second.rows()]
    assert rows == [
        *[("8", e, s) for e, s in (("0", "0"), ("1", "5"), ("1", "10"), ("2", "5"))],
        ("6", "0", "0"),
        ("6", "1", "5"),
    ]
    second.add((1, 10), {"loss": 0.25, "val_loss": 0.5})
    assert second.rows()[-1] == {"zoom": "6", "epoch": "1", "step": "10", "loss": "0.25", "val_loss": "0.5"}
    first.resume((-1, 0))
    assert path.read_text() == "zoom,epoch,step,loss,val_loss\n"


def test_log_of_one_training_has_no_stage_column(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "log.csv", FIGURES)
    log.resume((-1, 0))
    log.add((0, 0), {"val_loss": 2})
    log.add((1, 3), {"loss": 1, "val_loss": 1.5})
    log.resume((0, 0))
    assert log.path.read_text() == "epoch,step,loss,val_loss\n0,0,,2\n"


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "log.csv", FIGURES, writes=False)
    log.resume((-1, 0))
    log.add((0, 0), {"loss": 1.0})
    assert not list(tmp_path.iterdir())
