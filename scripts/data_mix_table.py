"""Print the table of the ready mixes in docs/data.md: python scripts/data_mix_table.py

Licence, origin and what the rules of the 2023 contest say, for each source of each mix.
"""

from effchal.cli.compose import CONF_DIR, compose_config
from effchal.rules import check_rules

HEADER = "| `data_mix=` | source | licence | origin | `rules=neurips_2023` |"


def rows() -> list[str]:
    """Lines in Markdown."""
    lines = [HEADER, "|---|---|---|---|---|"]
    for mix in sorted(path.stem for path in (CONF_DIR / "data_mix").glob("*.yaml")):
        cfg = compose_config([f"data_mix={mix}", "rules=neurips_2023"])
        assert cfg.rules is not None
        findings = check_rules(cfg.rules, cfg.model, cfg.data_mix, cfg.budget, [])
        for name, source in cfg.data_mix.sources.items():
            failed = [f for f in findings if f.rule.startswith(f"{name}: ") and not f.ok]
            verdict = "; ".join(f"fails: {f.rule.removeprefix(f'{name}: ')}" for f in failed)
            origin = source.origin.value
            cells = (f"`{mix}`", name, source.license, origin, verdict or "passes")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print("\n".join(rows()))
