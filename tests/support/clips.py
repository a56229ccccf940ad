"""Small videos, made with PyAV."""

from fractions import Fraction

import numpy as np
from PIL import Image

SIZE = (64, 48)
COLORS = ["red", "green", "blue", "white", "black", "yellow", "cyan", "magenta", "gray", "orange"]
# of an MP4's track header: bytes from its name to the matrix that turns its frames
MATRIX_AT = 44
# where the matrix takes steps to the right and steps down, in pixels to the right and down
TURNS = {
    "right": (0, 1, -1, 0),  # of a telephone held upright
    "upside down": (-1, 0, 0, -1),
    "left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "mirrored upside down": (1, 0, 0, -1),
    "mirrored, right": (0, 1, 1, 0),
    "mirrored, left": (0, -1, -1, 0),
}


def color(name, size=SIZE):
    return Image.new("RGB", size, name)


def noise(seed, size=SIZE):
    """An image that no codec makes small."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_clip(path, images=None, *, codec="mpeg4", rate=10, times=None, options=None):
    """Write images as the frames of a video.

    Args:
        path: of the file.
        images: in order; None for one of each of COLORS.
        codec: by FFmpeg's name.
        rate: frames a second.
        times: of the frames in hundredths of a second, in place of `rate`.
        options: of the container.
    """
    import av

    images = list(map(color, COLORS)) if images is None else images
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_image(image)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sizes(path, sizes):
    """Write a video in VP8 each of whose frames has a size of its own."""
    import av

    step = Fraction(1, 10)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height = sizes[0]
        stream.pix_fmt = "yuv420p"
        for number, size in enumerate(sizes):
            coder = av.CodecContext.create("libvpx", "w")
            coder.width, coder.height = size
            coder.pix_fmt, coder.time_base = "yuv420p", step
            frame = av.VideoFrame.from_image(color(COLORS[number], size))
            frame.pts, frame.time_base = 0, step
            for packet in [*coder.encode(frame), *coder.encode(None)]:
                packet.pts = packet.dts = number
                packet.time_base, packet.stream = step, stream
                container.mux(packet)
    return path


def write_sound(path):
    """Write a second of silence."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path, how):
    """Have an MP4 say that its frames are shown turned, as TURNS names it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + MATRIX_AT
    turns = [value << 16 for value in TURNS[how]]
    matrix = (*turns[:2], 0, *turns[2:], 0, 0, 0, 1 << 30)
    for number, value in enumerate(matrix):
        data[at + 4 * number : at + 4 * number + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def nearest(image, place=None):
    """The colour of COLORS that a pixel of an image, by default its middle, is nearest to."""
    shown = image.getpixel(place or (image.width // 2, image.height // 2))
    solid = {name: color(name, (1, 1)).getpixel((0, 0)) for name in COLORS}

    def distance(name):
        return sum(abs(a - b) for a, b in zip(shown, solid[name], strict=True))

    return min(COLORS, key=distance)
