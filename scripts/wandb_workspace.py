"""Lay out the dashboard that compares runs at Weights & Biases.

python scripts/wandb_workspace.py <entity>/<project>              saves a new view
python scripts/wandb_workspace.py <entity>/<project> --dry-run    prints the layout as JSON
"""

import argparse
import json
import sys
from typing import Any

from effchal.tracking.names import HOURS, RESULTS, SAMPLES, STEP, TOKENS, chart_name, figure_name

Panel = dict[str, Any]
VIEW = "effchal: compare runs"


def lines(x: str, *keys: str) -> Panel:
    """Curves of metrics, by their names in metrics.jsonl."""
    return {"kind": "lines", "x": x, "metrics": [chart_name(key) for key in keys]}


def bars(*metrics: str) -> Panel:
    """Bars of what a run's summary says."""
    return {"kind": "bars", "metrics": list(metrics)}


def layout() -> dict[str, list[Panel]]:
    """Panels by section. Every name in it is one that the mirror sends."""
    plans = [
        bars(f"plan/{name}/predicted", f"plan/{name}/actual")
        for name in ("memory_gib", "hours", "tokens")
    ]
    figures = [figure_name("results"), figure_name("layers")]
    return {
        "Loss": [lines(axis, "loss") for axis in (STEP, TOKENS, HOURS)],
        "Validation": [
            *(lines(axis, "validation_loss") for axis in (STEP, TOKENS, HOURS)),
            bars(chart_name("validation_loss_before"), chart_name("validation_loss")),
        ],
        "Speed and memory": [
            lines(STEP, "tokens_per_s"),
            lines(STEP, "lr"),
            lines(STEP, "grad_norm"),
            bars(chart_name("peak_memory_gib")),
        ],
        "Plan against actual": plans,
        "Samples": [{"kind": "table", "metrics": [SAMPLES]}],
        "Evaluation": [
            {"kind": "table", "metrics": [RESULTS]},
            {"kind": "images", "metrics": figures},
        ],
    }


def save(entity: str, project: str) -> str:
    """Save the layout as a new view of the project. Returns its address."""
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        sys.exit("error: this needs wandb-workspaces; pip install wandb-workspaces")

    def panel(part: Panel) -> Any:
        names = part["metrics"]
        match part["kind"]:
            case "lines":
                return panels.LinePlot(title=names[0], x=part["x"], y=names)
            case "bars":
                summary = [panels.SummaryMetric(name) for name in names]
                return panels.BarPlot(title=names[-1], metrics=summary)
            case "table":
                return panels.WeavePanelSummaryTable(table_name=names[0])
        return panels.MediaBrowser(media_keys=names)

    sections = [
        workspaces.Section(name=name, panels=[panel(part) for part in parts], is_open=True)
        for name, parts in layout().items()
    ]
    view = workspaces.Workspace(entity=entity, project=project, name=VIEW, sections=sections)
    try:
        return view.save().url
    except Exception as error:  # no key, no network, no such project: wandb raises many kinds
        sys.exit(f"error: the view is not saved: {str(error).strip().splitlines()[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", metavar="entity/project")
    parser.add_argument("--dry-run", action="store_true", help="print the layout as JSON")
    arguments = parser.parse_args()
    entity, _, project = arguments.project.partition("/")
    if not entity or not project or "/" in project:
        parser.error(f"give <entity>/<project>, got {arguments.project}")
    if arguments.dry_run:
        print(json.dumps({"view": VIEW, "sections": layout()}, indent=2))
    else:
        print(save(entity, project))


if __name__ == "__main__":
    main()
