"""Write docs/parameters.md from the descriptions of the parameters; a test compares both."""

from pathlib import Path

from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig, parameter_table

PAGE = Path(__file__).parents[1] / "docs" / "parameters.md"


def page() -> str:
    """Return the page."""
    parts = ["# Parameters\n\nEach parameter is a flag of the command line, with dashes: `--learning-rate 0.0005`.\n"]
    for title, config in (("Model", ModelConfig), ("Training", TrainingConfig), ("Detection", DetectionConfig)):
        parts.append(f"## {title}\n\n{parameter_table(config)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
