"""The losses of a running training, drawn with QPainter: at about a millisecond, it never blocks the window."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["LossPlot"]

_MARGIN = 6


class LossPlot(QWidget):
    """Plot of training and held-out loss against steps; the best step is marked."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._steps: list[int] = []
        self._train: list[float] = []
        self._holdout: list[float] = []
        self._best: int | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumHeight(150)
        self.setToolTip(
            "<qt>Negative log-likelihood of normal tiles, in nats per latent dimension; lower is better. Dashed: "
            "training tiles. Solid: held-out tiles. The circle marks the best step so far, which is kept.</qt>"
        )
        self.setAccessibleName("Training and held-out loss")

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the preferred size."""
        return QSize(260, 150)

    @property
    def points(self) -> tuple[tuple[int, float, float], ...]:
        """Step, training loss and held-out loss of each point."""
        return tuple(zip(self._steps, self._train, self._holdout, strict=True))

    def clear(self) -> None:
        """Remove all points."""
        self._steps, self._train, self._holdout, self._best = [], [], [], None
        self.update()

    def add(self, step: int, train: float, holdout: float, is_best: bool) -> None:
        """Add a point; `holdout` is NaN without held-out tiles."""
        self._steps.append(step)
        self._train.append(train)
        self._holdout.append(holdout)
        if is_best:
            self._best = len(self._steps) - 1
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: ARG002, N802
        """Draw the plot in the colours of the theme."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette = self.palette()
        text = palette.color(QPalette.ColorRole.WindowText)
        faint = QColor(text)
        faint.setAlphaF(0.35)
        line = painter.fontMetrics().height()
        values = [v for v in (*self._train, *self._holdout) if math.isfinite(v)]
        frame = QRectF(self.rect()).adjusted(_MARGIN, line + _MARGIN, -_MARGIN, -line - _MARGIN)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(frame)
        if not values:
            painter.drawText(frame, int(Qt.AlignmentFlag.AlignCenter), "The loss appears here during training")
            return
        low, high = min(values), max(values)
        room = (high - low) * 0.08 or 0.5
        low, high = low - room, high + room
        span = max(self._steps[-1] - self._steps[0], 1)

        def place(i: int, value: float) -> QPointF:
            x = frame.left() + frame.width() * (self._steps[i] - self._steps[0]) / span
            return QPointF(x, frame.bottom() - frame.height() * (value - low) / (high - low))

        holdout_pen = QPen(text, 2)
        train_pen = QPen(faint, 2, Qt.PenStyle.DashLine)
        for losses, pen in ((self._train, train_pen), (self._holdout, holdout_pen)):
            self._draw(painter, pen, [place(i, v) for i, v in enumerate(losses) if math.isfinite(v)])
        watched = self._holdout if any(map(math.isfinite, self._holdout)) else self._train
        if self._best is not None and math.isfinite(watched[self._best]):
            painter.setPen(holdout_pen)
            painter.drawEllipse(place(self._best, watched[self._best]), 5, 5)

        painter.setPen(text)
        top = QRectF(frame.left(), 0, frame.width(), line + _MARGIN)
        bottom = QRectF(frame.left(), frame.bottom(), frame.width(), line + _MARGIN)
        last = [f"{v[-1]:.3f}" if math.isfinite(v[-1]) else "-" for v in (self._train, self._holdout)]
        painter.drawText(top, int(Qt.AlignmentFlag.AlignLeft), f"– –  train {last[0]}")
        painter.drawText(top, int(Qt.AlignmentFlag.AlignRight), f"—  held out {last[1]}")
        painter.drawText(bottom, int(Qt.AlignmentFlag.AlignLeft), f"step {self._steps[0]}")
        painter.drawText(bottom, int(Qt.AlignmentFlag.AlignRight), f"step {self._steps[-1]}")

    @staticmethod
    def _draw(painter: QPainter, pen: QPen, points: Sequence[QPointF]) -> None:
        painter.setPen(pen)
        if len(points) == 1:
            painter.drawEllipse(points[0], 2, 2)
        elif points:
            painter.drawPolyline(QPolygonF(list(points)))
