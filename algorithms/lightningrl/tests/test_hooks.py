"""What LightningRL asks of the pipeline that feeds it."""

from agentlightning.pipeline import Forest, GroupByTask, Pipeline
from lightning_algorithm_lightningrl.hooks import agl_configure_pipeline


def test_groups_and_forest_are_added_where_they_were_left_out() -> None:
    completed = agl_configure_pipeline(Pipeline(), "sft+lightningrl")
    assert completed is not None
    assert completed.names == ("group", "forest")


def test_a_complete_pipeline_and_other_algorithms_are_left_alone() -> None:
    whole = Pipeline((GroupByTask({}), Forest({})))
    assert agl_configure_pipeline(whole, "lightningrl") is None
    assert agl_configure_pipeline(Pipeline(), "apo") is None
