"""Errors of the offline package, as one tree. Messages name the wrong value and the way out.

IndexerError
├── CoverageError          a bbox, GeoJSON, zoom list or land fraction that describes no tiles
├── OptionError            an option whose value means nothing
├── PhotoSetError          a table or folder of photos that cannot be used at all
├── TrainingError          a state or recipe that training cannot go on from
├── CalibrationFitError    a calibration that the given photos do not allow
├── EvaluationError        nothing to measure, or no place for the results
├── GeocellError           photos that cannot be divided into cells, or no place for the results
├── RunMismatchError       a folder that holds a run with other arguments or data
├── RunLockedError         a folder in which another process works
├── NothingFoundError      a source without one usable tile where tiles were asked for
├── DiskError              the disk is full or refuses to write; the run can be resumed
└── BuildError             an index that cannot be built as requested
    └── ExistingIndexError `--out` holds something else
"""


class IndexerError(Exception):
    """Base of this package's errors."""


class CoverageError(IndexerError, ValueError):
    """A coverage that cannot be read or holds no tile."""


class OptionError(IndexerError, ValueError):
    """An option whose value means nothing, whatever the data; the message names both."""


class PhotoSetError(IndexerError):
    """A table or folder of photos that cannot be used as a whole; single bad rows are counted, never raised."""


class TrainingError(IndexerError):
    """A saved state or recipe that is damaged or belongs to another run; the message names the file."""


class CalibrationFitError(IndexerError):
    """A calibration that cannot be fitted: too few photos, or an expected share outside its range."""


class EvaluationError(IndexerError):
    """Nothing to measure, no folder for the results, or no library to draw them with."""


class GeocellError(IndexerError):
    """Geocells that cannot be fitted: no clusters at any setting, or no folder for the results."""


class RunMismatchError(IndexerError):
    """A folder holds a run that was begun with other arguments or data."""


class RunLockedError(IndexerError):
    """Another process works in this folder."""


class DiskError(IndexerError):
    """The disk is full or refuses to write; what was written stays, and a later run goes on."""


class NothingFoundError(IndexerError):
    """No tile at all could be had or used; the message counts what came instead."""


class BuildError(IndexerError):
    """An index that cannot be built as requested."""


class ExistingIndexError(BuildError):
    """The index's folder holds something that this build must not replace."""
