"""The command line of the offline part. Commands parse, call and print; the work is in the other packages.

`options.py` derives options from dataclasses, `terminal.py` has progress bars and exit codes. Nothing imports this
package but `tilebeam.py` and the packages that are commands themselves.
"""
