"""Draws `media/icon.png`: tokens that are there, one that has just come, masks."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

SIZE, SHARPER = 256, 4  # it is drawn larger, for smooth edges
GROUND, TEXT, FRESH, MASK = "#10231c", "#d8efe4", "#3ddc97", "#2f5546"
ROWS = (  # indentation and cells, in columns of five
    (0, (TEXT, TEXT, FRESH)),
    (1, (TEXT, MASK, TEXT, FRESH)),
    (1, (MASK, TEXT, MASK)),
    (1, (FRESH, MASK)),
)


def draw() -> Image.Image:
    """The icon."""
    side = SIZE * SHARPER
    image = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((0, 0, side - 1, side - 1), side // 6, GROUND)
    cell, gap = side * 0.135, side * 0.03
    for row, (indentation, cells) in enumerate(ROWS):
        top = side * 0.185 + row * (cell + gap)
        for place, colour in enumerate(cells):
            left = side * 0.1 + (place + indentation) * (cell + gap)
            pen.rounded_rectangle((left, top, left + cell, top + cell), cell // 4, colour)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw().save(Path(__file__).parent / "media" / "icon.png", optimize=True)
