"""The condensed tree of a Run as a table: its clusters, and then the rows that leave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gpucluster.types import NOISE, DensityTree

if TYPE_CHECKING:
    from gpucluster.types import Rows

TREE = pa.schema(
    [
        pa.field("parent", pa.int32()),  # null: the root
        pa.field("child", pa.int32()),  # null: a row
        pa.field("row", pa.int64()),  # position in the input; null: a cluster
        pa.field(
            "lambda", pa.float64(), nullable=False
        ),  # density, 1 / distance, at which it parts
        pa.field("size", pa.int64(), nullable=False),  # rows
        pa.field("cluster_id", pa.string()),  # of the selected ones, "cl_0"
    ]
)


def tree_table(tree: DensityTree, rows: Rows) -> pa.Table:
    """Return a condensed tree, with the columns of `TREE`: its clusters, then the fitted `rows`."""
    n_nodes, n_rows = len(tree.parent), len(rows)
    order = np.lexsort((tree.row_density, tree.row_node))
    names = [None if cluster == NOISE else f"cl_{cluster}" for cluster in tree.cluster.tolist()]
    numbers = np.arange(n_nodes + n_rows)
    columns = [
        pa.array(np.append(tree.parent, tree.row_node[order]), mask=numbers == 0),
        pa.array(numbers, pa.int32(), mask=numbers >= n_nodes),
        pa.concat_arrays([pa.nulls(n_nodes, pa.int64()), pa.array(rows[order], pa.int64())]),
        pa.array(np.append(tree.birth, tree.row_density[order])),
        pa.array(np.append(tree.size, np.ones(n_rows, np.int64))),
        pa.concat_arrays([pa.array(names, pa.string()), pa.nulls(n_rows, pa.string())]),
    ]
    return pa.table(columns, schema=TREE)


def density_tree(table: pa.Table) -> DensityTree:
    """Return the tree of a table with the columns of `TREE`; its rows in the order of the table."""
    n_nodes = table.num_rows - table["child"].null_count
    nodes, rows = table.slice(0, n_nodes), table.slice(n_nodes)
    names = nodes["cluster_id"].to_pylist()
    return DensityTree(
        parent=nodes["parent"].fill_null(NOISE).to_numpy(),
        birth=nodes["lambda"].to_numpy(),
        size=nodes["size"].to_numpy(),
        cluster=np.array([NOISE if n is None else int(n[len("cl_") :]) for n in names], np.int32),
        row_node=rows["parent"].to_numpy(),
        row_density=rows["lambda"].to_numpy(),
    )
