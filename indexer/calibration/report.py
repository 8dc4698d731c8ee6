"""What a calibration changed, as Markdown, JSON and pictures: raw against fitted, on photos that were not fitted to."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from indexer.calibration.run import Calibrated
from indexer.errors import CalibrationFitError
from indexer.evaluation import plots
from indexer.evaluation.bootstrap import Figure, Resamples
from indexer.evaluation.figures import Answerable, Figures, answerable, at_zoom, circles, plain, risk_of
from indexer.evaluation.outcomes import Outcomes
from indexer.evaluation.tables import decimals, markdown_table, percent
from retrieval.files import write_json

__all__ = ["CalibrationReport", "check_folder", "numbers_in_words"]

_ZOOM_FIGURES = ("nll", "ece", "brier", "auroc", "right", "confidence")
_JSON = "calibration-report.json"


class CalibrationReport:
    """All figures of a calibration, with 95% bootstrap intervals. Made once, shown in several ways."""

    def __init__(self, done: Calibrated, replicates: int = 1000) -> None:
        self.done = done
        resamples = Resamples(len(done.after), replicates, done.request.seed)
        self.zooms = {
            z: (_of_zoom(done.before, i, resamples), _of_zoom(done.after, i, resamples))
            for i, z in enumerate(done.zooms)
        }
        self.circles = resamples.figures(circles(done.after))
        self.risk = risk_of(done.after)
        self.elsewhere = _elsewhere(done, resamples)

    def markdown(self) -> str:
        """A page for people."""
        return "\n\n".join(part for part in self._parts() if part)

    def to_json(self) -> dict[str, Any]:
        """All of it; figures as value, low and high."""
        done = self.done
        zooms = {
            str(zoom): {"fitted": zoom in done.calibration.zooms, "raw": plain(raw), "calibrated": plain(fitted)}
            for zoom, (raw, fitted) in self.zooms.items()
        }
        return {
            "format": "tilebeam-calibration-report",
            "version": 1,
            "calibration_id": done.calibration.id,
            "k": done.calibration.k,
            "numbers": {str(z): asdict(n) for z, n in done.calibration.zooms.items()},
            "photos": {"fitted": len(done.halves.fit), "measured": len(done.after), "digest": done.photos.digest()},
            "reached": {str(z): n for z, n in done.reached.items()},
            "zooms": zooms,
            "circles": plain(self.circles),
            "aurc": self.risk.aurc,
            "wrong_at_coverage": plain(self.risk.at),
            "elsewhere": {n: plain(asdict(f)) for n, f in self.elsewhere.groups.items()} if self.elsewhere else None,
        }

    def write(self, folder: Path) -> None:
        """Page, JSON and pictures; raises CalibrationFitError where the folder cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "calibration.md").write_text(self.markdown() + "\n", encoding="utf-8")
            for name, outcomes in (("raw", self.done.before), ("calibrated", self.done.after)):
                curves = {f"zoom {z.zoom}": (z.confidence[z.reached], z.right[z.reached]) for z in outcomes.zooms}
                path = folder / f"reliability-{name}.png"
                plots.reliability_diagram(path, curves, f"Confidence against how often it is right: {name}")
            risks = {"raw": risk_of(self.done.before), "calibrated": self.risk}
            curves = {name: (risk.score, risk.wrong) for name, risk in risks.items()}
            plots.risk_coverage_plot(folder / "risk-coverage.png", curves, "What abstaining buys (wrong: over 750 km)")
            write_json(folder / _JSON, self.to_json())
        except OSError as exc:
            raise CalibrationFitError(
                f"--out {folder} cannot be written ({exc.strerror}); the index has its calibration: "
                "name another folder and run again for the report"
            ) from exc

    def _parts(self) -> Iterator[str]:
        done = self.done
        prior = f" with the prior {done.calibration.prior}" if done.calibration.prior else ""
        yield f"# Calibration of {done.request.index.name} at k = {done.request.k}{prior}"
        yield (
            f"Fitted to {len(done.halves.fit):,} photos, measured on {len(done.after):,} others. "
            "In brackets 95% bootstrap intervals. ECE over 15 bins."
        )
        for zoom in done.unfitted:
            yield f"**Zoom {zoom} is not calibrated**: {_few(done, zoom)}. Answers that reach it say so."
        head = ["zoom", "numbers", "NLL", "ECE", "Brier", "AUROC", "right", "confidence"]
        yield markdown_table(head, [line for zoom in self.zooms for line in self._zoom_lines(zoom)])
        rows = [[f"{p}%", _percent(self.circles[f"holds_{p}"]), _percent(self.circles[f"given_{p}"])] for p in (50, 90)]
        yield markdown_table(["circle", "holds the truth", "given"], rows)
        shares = ", ".join(f"{100 * risk:.1f}% at {100 * share:.0f}%" for share, risk in self.risk.at.items())
        yield f"Wrong (over 750 km) among the answers given, the surest first: {shares}. AURC {self.risk.aurc:.3f}."
        if self.elsewhere is not None:
            yield self._elsewhere_table(self.elsewhere)

    def _zoom_lines(self, zoom: int) -> Iterator[list[str]]:
        for name, figures in zip(("raw", "fitted"), self.zooms[zoom], strict=True):
            plain_figures = [decimals(figures[key]) for key in _ZOOM_FIGURES[:4]]
            yield [str(zoom), name, *plain_figures, *(_percent(figures[key]) for key in _ZOOM_FIGURES[4:])]

    @staticmethod
    def _elsewhere_table(told: Answerable) -> str:
        families = {**told.groups, **told.families}
        rows = [
            [name, str(f.not_answerable), decimals(f.elsewhere), f"{f.mean_elsewhere:.2f}"]
            for name, f in families.items()
        ]
        head = ["pictures without an answer, none of them fitted to", "n", "AUROC of elsewhere", "mean elsewhere"]
        return markdown_table(head, rows)


def check_folder(folder: Path) -> None:
    """Before any work: a report can be put there. Raises CalibrationFitError."""
    if folder.exists() and not folder.is_dir():
        raise CalibrationFitError(f"--out {folder} is a file: name a folder")


def _of_zoom(outcomes: Outcomes, number: int, resamples: Resamples) -> Figures:
    found = resamples.figures(at_zoom(outcomes.zooms[number]))
    return {name: found[name] for name in (*_ZOOM_FIGURES, "reached")}


def _elsewhere(done: Calibrated, resamples: Resamples) -> Answerable | None:
    if done.strangers is None or done.halves.test_strangers is None:
        return None
    return answerable(done.after, done.strangers, done.halves.test_strangers.families, resamples)


def _few(done: Calibrated, zoom: int) -> str:
    if zoom not in done.reached:
        return "a coarser zoom could not be fitted"
    return f"only {done.reached[zoom]} photos have their true tile among its candidates"


def _percent(figure: Figure) -> str:
    return percent(figure, unit="%")


def numbers_in_words(numbers: Mapping[int, Any]) -> list[str]:
    """One line a zoom."""
    return [
        f"zoom {zoom}: tau {n.tau:.4f}, gamma {n.gamma:.2f}, kappa {n.kappa:.2f}, rho {n.rho:.2f}, lambda {n.lam:.2f}"
        for zoom, n in sorted(numbers.items())
    ]
