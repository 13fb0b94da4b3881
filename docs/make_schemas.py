"""Write the JSON Schemas of our records into docs/schemas: python docs/make_schemas.py

They are made from the classes that the code reads and writes, so they cannot say anything else. Schemas of earlier versions stay as
they were made.
"""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from xmsim.reports.difference.record import DIFFERENCE_VERSION, Difference
from xmsim.sim.result import RESULT_VERSION, SimulationRecord
from xmsim.traces.manifest import TRACE_VERSION, Manifest
from xmsim.workloads.attachment.greedy_record import GREEDY_VERSION, GreedyRecord
from xmsim.workloads.evaluation import EVALUATION_VERSION, SPLITS_VERSION, EvaluationRecord, SplitsRecord
from xmsim.workloads.measurement import MEASUREMENT_VERSION, MeasurementRecord
from xmsim.workloads.measuring.calibration.record import CALIBRATION_VERSION, CalibrationRecord
from xmsim.workloads.measuring.generation_record import GENERATION_VERSION, GenerationRecord
from xmsim.workloads.measuring.host_check_record import CROSS_CHECK_VERSION, HOST_CHECK_VERSION, CrossCheckRecord, HostCheckRecord
from xmsim.workloads.methods.mask_record import MASKS_VERSION, MaskRecord
from xmsim.workloads.pruning.record import PRUNING_VERSION, PruningRecord
from xmsim.workloads.tuning.record import TUNING_VERSION, TuningRecord

FOLDER = Path(__file__).parent / "schemas"
SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean"}


def schemas() -> dict[str, dict[str, Any]]:
    """Each schema by its file name."""
    return {
        f"result.v{RESULT_VERSION}.json": record_schema("result", RESULT_VERSION, dataclass_schema(SimulationRecord)),
        f"measurement.v{MEASUREMENT_VERSION}.json": record_schema("measurement", MEASUREMENT_VERSION, dataclass_schema(MeasurementRecord)),
        f"evaluation.v{EVALUATION_VERSION}.json": record_schema("evaluation", EVALUATION_VERSION, dataclass_schema(EvaluationRecord)),
        f"splits.v{SPLITS_VERSION}.json": record_schema("splits", SPLITS_VERSION, dataclass_schema(SplitsRecord)),
        f"greedy.v{GREEDY_VERSION}.json": record_schema("greedy", GREEDY_VERSION, dataclass_schema(GreedyRecord)),
        f"generation.v{GENERATION_VERSION}.json": record_schema("generation", GENERATION_VERSION, dataclass_schema(GenerationRecord)),
        f"calibration.v{CALIBRATION_VERSION}.json": record_schema("calibration", CALIBRATION_VERSION, dataclass_schema(CalibrationRecord)),
        f"host_check.v{HOST_CHECK_VERSION}.json": record_schema("host_check", HOST_CHECK_VERSION, dataclass_schema(HostCheckRecord)),
        f"cross_check.v{CROSS_CHECK_VERSION}.json": record_schema("cross_check", CROSS_CHECK_VERSION, dataclass_schema(CrossCheckRecord)),
        f"masks.v{MASKS_VERSION}.json": record_schema("masks", MASKS_VERSION, dataclass_schema(MaskRecord)),
        f"tuning.v{TUNING_VERSION}.json": record_schema("tuning", TUNING_VERSION, dataclass_schema(TuningRecord)),
        f"pruning.v{PRUNING_VERSION}.json": record_schema("pruning", PRUNING_VERSION, dataclass_schema(PruningRecord)),
        f"difference.v{DIFFERENCE_VERSION}.json": record_schema("difference", DIFFERENCE_VERSION, dataclass_schema(Difference)),
        f"trace.v{TRACE_VERSION}.json": record_schema("trace", TRACE_VERSION, TypeAdapter(Manifest).json_schema()),
    }


def record_schema(kind: str, version: int, body: dict[str, Any]) -> dict[str, Any]:
    """The schema of a whole file: our header and the body."""
    header = {"format": {"const": f"xmsim.{kind}"}, "version": {"const": version}, "xmsim": {"type": "string"}}
    return body | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"xmsim.{kind} version {version}",
        "properties": header | body["properties"],
        "required": [*header, *body["required"]],
    }


def dataclass_schema(kind: Any) -> dict[str, Any]:
    """The schema of what `xmsim.configs.codec.encode` makes of a class."""
    if kind is Any:
        return {}
    if kind in SCALARS:
        return {"type": SCALARS[kind]}
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        keys = {str(f.metadata.get("json_key", f.name)): dataclass_schema(hints[f.name]) for f in dataclasses.fields(kind)}
        described = {"description": (kind.__doc__ or "").split("\n")[0]}
        return described | {"type": "object", "properties": keys, "required": list(keys)}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if a is type(None) else dataclass_schema(a) for a in arguments]}
    if origin is tuple:
        return {"type": "array", "items": dataclass_schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": dataclass_schema(arguments[1])}
    raise TypeError(f"{kind} has no JSON form")


if __name__ == "__main__":
    for name, schema in schemas().items():
        (FOLDER / name).write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
