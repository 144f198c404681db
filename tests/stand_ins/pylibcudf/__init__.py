"""What we call of pylibcudf, done by pyarrow: for machines without a GPU.

Signatures are those of ``tests/contract/rapids_26_10_signatures.json``; a test compares them. It
is found by name when ``tests/stand_ins`` is on the path, in child processes too.

It is as strict as cuDF in what matters: no column of more values than a column may have, and
chunks whose types differ where one has nulls and another has none. Environment variables, which
children inherit, make it worse: ``STAND_IN_CUDF_VALUES`` lowers how many values a column may have;
``STAND_IN_CUDF_FAILS`` says how reading fails (``abort``, ``memory``, ``error``, ``short``,
``broken``), from which row group on (``abort 2``).
"""
