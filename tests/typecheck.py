"""The run-time type checker of the tests, named by ``conftest.py``: beartype, to which an int is a float."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
