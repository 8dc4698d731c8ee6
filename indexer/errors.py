"""Everything that can go wrong offline, as one tree.

IndexerError
├── CoverageError          a bbox, GeoJSON, zoom list or land fraction that describes no tiles
├── PhotoSetError          a table or folder of photos that cannot be used at all
├── TrainingError          a state or a recipe that training cannot go on from
│   └── RunMismatchError   a training run that was begun with other arguments or data
├── CalibrationFitError    a calibration that the photos at hand do not allow
├── EvaluationError        figures that cannot be made, or written, as asked
├── GeocellError           photos that cannot be parted into cells, or no place for what comes out
└── BuildError             an index that cannot be made as asked
    ├── ExistingIndexError what stands at `--out` is something else
    ├── PlanMismatchError  a half-made index that was begun with other arguments
    ├── BuildLockedError   another build of the same index is running
    └── DiskError          the disk is full or refuses to write; resumable
"""


class IndexerError(Exception):
    """Base of this package's errors; the message names the value and the way out."""


class CoverageError(IndexerError, ValueError):
    """A coverage that cannot be understood or holds no tile."""


class PhotoSetError(IndexerError):
    """A table or folder of photos that cannot be used as a whole; single bad rows are counted, never raised."""


class TrainingError(IndexerError):
    """A saved state that is damaged or of another run; the message names the file."""


class RunMismatchError(TrainingError):
    """The folder of a training run holds one that was begun with other arguments or data."""


class CalibrationFitError(IndexerError):
    """A calibration that cannot be fitted: too few photos, or an expected share that is none."""


class EvaluationError(IndexerError):
    """Nothing to measure, no place to write it, or nothing to draw it with."""


class GeocellError(IndexerError):
    """Geocells that cannot be fitted as asked: no clusters at any setting, or nowhere to write them."""


class BuildError(IndexerError):
    """An index that cannot be made as it was asked for."""


class ExistingIndexError(BuildError):
    """The place of the index is taken by something that this build would not make."""


class PlanMismatchError(BuildError):
    """A half-made index lies there, begun with other arguments."""


class BuildLockedError(BuildError):
    """Another process is building this index."""


class DiskError(BuildError):
    """The disk is full or refuses to write; what was written stays, and a later run goes on."""
