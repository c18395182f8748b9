"""Latents are plain Parquet for Ray Data, which reads vectors as tensors."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vaepipe.data import schema

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_ray_data_reads_vectors_and_ids(cluster, tmp_path):
    """The types and settings of our files; records and plans beside them are passed over."""
    from ray import data

    cluster.resources()  # connects
    mean = np.arange(40, dtype=np.float32).reshape(20, 2)
    fields = [pa.field("id", pa.int64()), schema.vector_field("mean", pa.float32(), (2,))]
    table = pa.Table.from_arrays(
        [pa.array(range(20)), schema.to_vectors(mean)], schema=pa.schema(fields)
    )
    for part in range(2):
        name = f"part-{part:05d}-of-00002.parquet"
        rows = table.slice(10 * part, 10)
        pq.write_table(rows, tmp_path / name, **schema.write_options(table.schema))
    (tmp_path / "_manifest.json").write_text("{}")
    data.DataContext.get_current().enable_progress_bars = False
    rows = data.read_parquet(str(tmp_path)).take_all()
    assert sorted(row["id"] for row in rows) == list(range(20))
    for row in rows:
        assert np.asarray(row["mean"]).tolist() == mean[row["id"]].tolist()
