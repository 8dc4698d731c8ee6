"""The report of a calibration as Markdown, JSON and pictures: raw against fitted, on photos that were not fitted to."""

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
from indexer.runs import check_writable
from retrieval.files import write_json

__all__ = ["CalibrationReport", "check_folder", "numbers_in_words"]

_ZOOM_FIGURES = ("nll", "ece", "brier", "auroc", "right", "confidence")
_JSON = "calibration-report.json"


class CalibrationReport:
    """All figures of a calibration with 95% bootstrap intervals, computed once for all forms of the report."""

    def __init__(self, result: Calibrated, replicates: int = 1000) -> None:
        self.result = result
        resamples = Resamples(len(result.after), replicates, result.request.seed)
        self.zooms = {
            z: (_of_zoom(result.before, i, resamples), _of_zoom(result.after, i, resamples))
            for i, z in enumerate(result.zooms)
        }
        self.circles = resamples.figures(circles(result.after))
        self.risk = risk_of(result.after)
        self.elsewhere = _elsewhere(result, resamples)

    def markdown(self) -> str:
        """The report as a Markdown page."""
        return "\n\n".join(part for part in self._parts() if part)

    def to_json(self) -> dict[str, Any]:
        """All figures, each as value, low and high."""
        result = self.result
        zooms = {
            str(zoom): {"fitted": zoom in result.calibration.zooms, "raw": plain(raw), "calibrated": plain(fitted)}
            for zoom, (raw, fitted) in self.zooms.items()
        }
        return {
            "format": "tilebeam-calibration-report",
            "version": 1,
            "calibration_id": result.calibration.id,
            "k": result.calibration.k,
            "numbers": {str(z): asdict(n) for z, n in result.calibration.zooms.items()},
            "photos": {
                "fitted": len(result.halves.fit),
                "measured": len(result.after),
                "digest": result.photos.digest(),
            },
            "reached": {str(z): n for z, n in result.reached.items()},
            "zooms": zooms,
            "circles": plain(self.circles),
            "aurc": self.risk.aurc,
            "wrong_at_coverage": plain(self.risk.at),
            "elsewhere": {n: plain(asdict(f)) for n, f in self.elsewhere.groups.items()} if self.elsewhere else None,
        }

    def write(self, folder: Path) -> None:
        """Write page, JSON and pictures. Raises CalibrationFitError if the folder cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "calibration.md").write_text(self.markdown() + "\n", encoding="utf-8")
            for name, outcomes in (("raw", self.result.before), ("calibrated", self.result.after)):
                curves = {f"zoom {z.zoom}": (z.confidence[z.reached], z.right[z.reached]) for z in outcomes.zooms}
                path = folder / f"reliability-{name}.png"
                plots.reliability_diagram(path, curves, f"Confidence and share of right answers: {name}")
            risks = {"raw": risk_of(self.result.before), "calibrated": self.risk}
            curves = {name: (risk.score, risk.wrong) for name, risk in risks.items()}
            plots.risk_coverage_plot(folder / "risk-coverage.png", curves, "Risk by coverage (wrong: over 750 km)")
            write_json(folder / _JSON, self.to_json())
        except OSError as exc:
            raise CalibrationFitError(
                f"--out {folder} cannot be written ({exc.strerror}); the index has its calibration: "
                "name another folder and run again for the report"
            ) from exc

    def _parts(self) -> Iterator[str]:
        result = self.result
        prior = f" with the prior {result.calibration.prior}" if result.calibration.prior else ""
        yield f"# Calibration of {result.request.index.name} at k = {result.request.k}{prior}"
        yield (
            f"Fitted to {len(result.halves.fit):,} photos, measured on {len(result.after):,} others. "
            "In brackets 95% bootstrap intervals. ECE over 15 bins."
        )
        for zoom in result.unfitted:
            yield f"**Zoom {zoom} is not calibrated**: {_few(result, zoom)}. Answers that reach it are marked."
        head = ["zoom", "numbers", "NLL", "ECE", "Brier", "AUROC", "right", "confidence"]
        yield markdown_table(head, [line for zoom in self.zooms for line in self._zoom_lines(zoom)])
        rows = [[f"{p}%", _percent(self.circles[f"holds_{p}"]), _percent(self.circles[f"given_{p}"])] for p in (50, 90)]
        yield markdown_table(["circle", "holds the truth", "given"], rows)
        shares = ", ".join(f"{100 * risk:.1f}% at {100 * share:.0f}%" for share, risk in self.risk.at.items())
        yield f"Wrong (over 750 km) among the most confident answers: {shares}. AURC {self.risk.aurc:.3f}."
        if self.elsewhere is not None:
            yield self._elsewhere_table(self.elsewhere)

    def _zoom_lines(self, zoom: int) -> Iterator[list[str]]:
        for name, figures in zip(("raw", "fitted"), self.zooms[zoom], strict=True):
            plain_figures = [decimals(figures[key]) for key in _ZOOM_FIGURES[:4]]
            yield [str(zoom), name, *plain_figures, *(_percent(figures[key]) for key in _ZOOM_FIGURES[4:])]

    @staticmethod
    def _elsewhere_table(elsewhere: Answerable) -> str:
        families = {**elsewhere.groups, **elsewhere.families}
        rows = [
            [name, str(f.not_answerable), decimals(f.elsewhere), f"{f.mean_elsewhere:.2f}"]
            for name, f in families.items()
        ]
        head = ["out-of-scope pictures, not fitted to", "n", "AUROC of elsewhere", "mean elsewhere"]
        return markdown_table(head, rows)


def check_folder(folder: Path) -> None:
    """Check that a report can be written to a folder, before any work. Raises CalibrationFitError, EvaluationError."""
    plots.check_library()
    if folder.exists() and not folder.is_dir():
        raise CalibrationFitError(f"--out {folder} is a file: name a folder")
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    check_writable(there, folder, CalibrationFitError)


def _of_zoom(outcomes: Outcomes, number: int, resamples: Resamples) -> Figures:
    figures = resamples.figures(at_zoom(outcomes.zooms[number]))
    return {name: figures[name] for name in (*_ZOOM_FIGURES, "reached")}


def _elsewhere(result: Calibrated, resamples: Resamples) -> Answerable | None:
    if result.out_of_scope is None or result.halves.test_out_of_scope is None:
        return None
    return answerable(result.after, result.out_of_scope, result.halves.test_out_of_scope.families, resamples)


def _few(result: Calibrated, zoom: int) -> str:
    if zoom not in result.reached:
        return "a coarser zoom could not be fitted"
    return f"only {result.reached[zoom]} photos have their true tile among its candidates"


def _percent(figure: Figure) -> str:
    return percent(figure, unit="%")


def numbers_in_words(numbers: Mapping[int, Any]) -> list[str]:
    """One line for each zoom."""
    return [
        f"zoom {zoom}: tau {n.tau:.4f}, gamma {n.gamma:.2f}, kappa {n.kappa:.2f}, rho {n.rho:.2f}, lambda {n.lam:.2f}"
        for zoom, n in sorted(numbers.items())
    ]
