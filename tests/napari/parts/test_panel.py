"""A panel is never narrower than its content, and its forms are aligned."""

import pytest
from qtpy.QtWidgets import QApplication, QFormLayout, QLabel, QLineEdit

from napari_uflow._napari.parts.panel import Panel, advanced_section, as_sentence


@pytest.mark.parametrize("n_rows", [1, 50])
def test_a_panel_is_as_wide_as_its_content_and_the_scroll_bar(qtbot, n_rows):
    panel = Panel()
    qtbot.addWidget(panel)
    for _ in range(n_rows):
        panel.rows.addWidget(QLabel("a rather long text that is not wrapped, and therefore not narrowed"))
    panel.show()
    QApplication.processEvents()
    panel.resize(panel.minimumSizeHint().width(), 200)
    QApplication.processEvents()
    assert panel.verticalScrollBar().isVisible() == (n_rows > 1)
    assert panel.widget().minimumSizeHint().width() <= panel.viewport().width()


def test_the_fields_of_an_advanced_section_are_aligned(qtbot):
    forms = [QFormLayout(), QFormLayout()]
    fields = [QLineEdit(), QLineEdit()]
    for form, label, field in zip(forms, ("short", "a longer label"), fields, strict=True):
        form.addRow(label, field)
    section = advanced_section(*forms)
    qtbot.addWidget(section)
    section.show()
    closed = section.text()
    section.expand(animate=False)
    QApplication.processEvents()
    assert fields[0].x() == fields[1].x()
    assert section.text() != closed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no model", "No model."),
        ("Loading libraries...", "Loading libraries..."),
        ("'a' is damaged", "'a' is damaged."),
        ("", ""),
    ],
)
def test_messages_become_sentences(text, sentence):
    assert as_sentence(text) == sentence
