# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Audit many dumps, and keep a record of each (``docs/survey.md``).

* ``dumps``: the vmcores in files and directories
* ``child``: the process that audits one dump
* ``worker``: runs that process, with a time and a memory limit, on any executor
* ``store``: the records: a journal while dumps are audited, one file in the end
* ``parquet``: records as Parquet
* ``run``: all dumps on an executor, each once
"""
