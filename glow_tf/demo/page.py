"""The page of `python3 -m glow_tf explore`: Gradio's widgets around an Explorer."""

import functools
import html
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from glow_tf._files import printable
from glow_tf.demo.explorer import MAX_STRENGTH, MAX_TEMPERATURE, MAX_UPLOAD_BYTES, Explorer, too_large
from glow_tf.demo.guard import AllowlistMiddleware
from glow_tf.errors import InputError
from glow_tf.evaluation import visualization

# Gradio's default port, and the number of ports to try from there.
FIRST_PORT, PORTS = 7860, 100

# The number of sessions whose state is stored, and of requests that may queue.
MAX_SESSIONS, MAX_WAITING = 32, 64

GRID_WIDTH, IMAGE_WIDTH, COLUMN_WIDTH = 560, 200, 240  # pixels

# Sets the widget's value to the name and content of the chosen file, or only to its size if it is too large.
_READ_FILE = """
const input = element.querySelector('input');
const give = text => { props.value = text; trigger('input'); };
input.addEventListener('change', () => {
  const file = input.files[0], reader = new FileReader();
  reader.onload = () => give(file.name.replaceAll('\\n', ' ') + '\\n' + reader.result);
  if (file && file.size > LIMIT) give('size:' + file.size);
  else if (file) reader.readAsDataURL(file);
  input.value = '';
});
""".replace("LIMIT", str(MAX_UPLOAD_BYTES))

_CSS = """
.glow-error {color: #b00020; font-weight: 600}
.glow {margin: 0} .glow img {image-rendering: pixelated; display: block}
.glow figcaption {font-weight: 600; overflow-wrap: anywhere}
"""

# Requests run through the model one at a time, and are not part of Gradio's public API.
_MODEL = {"show_progress": "hidden", "concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}


def serve(explorer: Explorer, title: str, host: str, port: int | None = None) -> Any:
    """Starts the page's server; InputError if the port, by default the first free one from FIRST_PORT, is taken.

    Returns:
        The gr.Blocks, whose `local_url` is the address and whose `close` stops the server.
    """
    gradio = import_gradio()
    # Gradio checks once whether its own server responds; that request must not go through a proxy.
    os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), host]))
    from starlette.middleware import Middleware  # installed with Gradio

    page = build(explorer, title)
    page.queue(max_size=MAX_WAITING)
    ports = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]
    guard = Middleware(AllowlistMiddleware, host=host)
    for candidate in ports:
        try:
            page.launch(
                server_name=host, server_port=candidate, share=False, quiet=True, prevent_thread_lock=True,
                inbrowser=False, inline=False, footer_links=[], run_history=False, allowed_paths=[], root_path="",
                max_file_size=1, state_session_capacity=MAX_SESSIONS, enable_monitoring=False, ssr_mode=False,
                pwa=False, mcp_server=False, css=_CSS, app_kwargs={"middleware": [guard]},
                theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )  # fmt: skip
            return page
        except OSError:
            continue
    tried = f"port {port} is" if port is not None else f"ports {ports[0]} to {ports[-1]} are"
    raise InputError(f"{tried} taken or not allowed; name another with --port")


def import_gradio() -> Any:
    """Imports Gradio with no settings from the environment and without its reports to other servers."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    import gradio

    return gradio


def build(explorer: Explorer, title: str) -> Any:
    """The gr.Blocks of the page, not yet served."""
    gradio = import_gradio()
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.HTML(f"<h2>{html.escape(title)}</h2>{html.escape(explorer.description)}")
        for name, tab in (("Samples", _samples), ("Mix", _mix), ("Attributes", _attributes)):
            with gradio.Tab(name):
                tab(gradio, page, explorer)
    return page


def _samples(gradio: Any, page: Any, explorer: Explorer) -> None:
    with gradio.Row():
        with gradio.Column(scale=1):
            temperature = gradio.Slider(0, MAX_TEMPERATURE, 0.7, step=0.05, label="Temperature", elem_id="temperature")
            # A drop-down value cannot be None, so -1 stands for all classes.
            choices = [("all", -1), *((name, index) for index, name in enumerate(explorer.class_names))]
            label = gradio.Dropdown(choices, value=-1, label="Class", visible=len(choices) > 1, elem_id="label")
            seed = gradio.Number(0, label="Seed", precision=0, elem_id="seed")
            another = gradio.Button("Another seed", elem_id="another")
        with gradio.Column(scale=2):
            grid = gradio.HTML(elem_id="samples")

    def draw(temperature: Any, seed: Any, label: Any) -> str:
        return picture(explorer.samples(temperature, seed, None if label == -1 else label), width=GRID_WIDTH)

    another.click(lambda: int.from_bytes(os.urandom(2)), None, seed, show_progress="hidden", api_visibility="private")
    _on_change(gradio, page, [temperature, seed, label], draw, [], grid)


def _mix(gradio: Any, page: Any, explorer: Explorer) -> None:
    with gradio.Row():
        first, first_changed = _chooser(gradio, explorer, "A", "first", 0)
        with gradio.Column(min_width=COLUMN_WIDTH):
            mixed = gradio.HTML(elem_id="mixed")
            share = gradio.Slider(0, 1, 0.5, step=0.05, label="Share of B", elem_id="share")
            way = gradio.Radio(["straight", "spherical"], value="straight", label="Path through z", elem_id="way")
        second, second_changed = _chooser(gradio, explorer, "B", "second", 1)

    def draw(share: Any, way: Any, first: np.ndarray, second: np.ndarray) -> str:
        image = explorer.mix(first, second, share, way == "spherical")
        return picture(image, f"mixture: {1 - share:.0%} A, {share:.0%} B")

    _on_change(gradio, page, [share, way], draw, [first, second], mixed, [first_changed, second_changed])


def _attributes(gradio: Any, page: Any, explorer: Explorer) -> None:
    if not explorer.directions:
        gradio.Markdown("There are no directions: add some with --direction, or name the data set with --dataset.")
        return
    slider = functools.partial(gradio.Slider, -MAX_STRENGTH, MAX_STRENGTH, 0, step=0.1)
    with gradio.Row():
        image, changed = _chooser(gradio, explorer, "before", "edited", 0)
        with gradio.Column(min_width=COLUMN_WIDTH):
            moved = gradio.HTML(elem_id="moved")
        with gradio.Column(min_width=COLUMN_WIDTH):
            sliders = [
                slider(label=f"class {name}" if name in explorer.class_means else name, elem_id=f"direction{index}")
                for index, name in enumerate(explorer.directions)
            ]
            back = gradio.Button("Back to 0", elem_id="back")

    def draw(*values: Any) -> str:
        *strengths, image = values
        return picture(explorer.move(image, strengths), "after")

    _on_change(gradio, page, sliders, draw, [image], moved, [changed])
    zeros = [0] * len(sliders) if len(sliders) > 1 else 0
    back.click(lambda: zeros, None, sliders, show_progress="hidden", api_visibility="private")
    if len(explorer.class_means) < 2:
        return
    names = list(explorer.class_means)
    with gradio.Row():
        with gradio.Column():
            source = gradio.Dropdown(names, value=names[0], label="From class", elem_id="source")
            target = gradio.Dropdown(names, value=names[1], label="To class", elem_id="target")
            strength = slider(label="Strength", elem_id="strength")
        with gradio.Column(scale=2):
            changed_class = gradio.HTML(elem_id="changed_class")

    def draw_class(source: Any, target: Any, strength: Any, image: np.ndarray) -> str:
        edited = explorer.change_class(image, source, target, strength)
        return picture(edited, f"after: from class {source} to class {target}")

    _on_change(gradio, page, [source, target, strength], draw_class, [image], changed_class, [changed])


def _chooser(gradio: Any, explorer: Explorer, title: str, name: str, number: int) -> tuple[Any, Any]:
    """Widgets that select an image by number or upload; returns the gr.States of the image and of its changes."""
    number = min(number, len(explorer.images) - 1)
    image = gradio.State(explorer.images[number])
    with gradio.Column(min_width=COLUMN_WIDTH):
        start = picture(explorer.images[number], f"{title}: {explorer.images_name} {number}")
        shown = gradio.HTML(start, elem_id=f"{name}_image")
        by_number = gradio.Slider(0, len(explorer.images) - 1, number, step=1, label="number", elem_id=f"{name}_number")
        upload = gradio.HTML(
            html_template=f'<label>or a file: <input type="file" id="{name}_file" accept="image/*"></label>',
            js_on_load=_READ_FILE,
        )
        changed = gradio.State(0)

    def take(read: Callable, value: Any, image: np.ndarray, count: int) -> tuple[np.ndarray, str, int]:
        """(image, its HTML, number of changes); the previous image if the new one is refused."""
        try:
            new, description = read(value)
            return new, picture(new, f"{title}: {description}"), count + 1
        except InputError as error:
            return image, refusal(error) + picture(image, f"{title}: as before"), count

    def read_number(value: Any) -> tuple[np.ndarray, str]:
        return explorer.test_image(value), f"{explorer.images_name} {int(value)}"

    outputs = [image, shown, changed]
    by_number.change(
        functools.partial(take, read_number), [by_number, image, changed], outputs, trigger_mode="always_last", **_MODEL
    )
    upload.input(
        functools.partial(take, functools.partial(read_upload, explorer)), [upload, image, changed], outputs,
        trigger_mode="multiple", **_MODEL,
    )  # fmt: skip
    return image, changed


def read_upload(explorer: Explorer, text: str | None) -> tuple[np.ndarray, str]:
    """(the uploaded image, the file's name), from the text that `_READ_FILE` sends."""
    size = re.fullmatch(r"size:(\d{1,18})", text or "")
    if size:
        raise InputError(too_large(int(size[1])))
    name, _, address = (text or "").partition("\n")
    return explorer.uploaded(address), printable(name)


def _on_change(
    gradio: Any,
    page: Any,
    widgets: Sequence[Any],
    draw: Callable[..., str],
    states: Sequence[Any],
    output: Any,
    changed: Sequence[Any] = (),
) -> None:
    """Displays draw(widget values, state values) when the page loads and whenever one of them changes."""

    def shown(*values: Any) -> str:
        try:
            return draw(*values)
        except InputError as error:
            return refusal(error)

    triggers = [page.load, *(widget.change for widget in [*widgets, *changed])]
    gradio.on(triggers, shown, [*widgets, *states], output, trigger_mode="always_last", **_MODEL)


def picture(image: np.ndarray, title: str = "", width: int = IMAGE_WIDTH) -> str:
    """The HTML of an image, uint8 [H, W, C], under a title, enlarged without smoothing."""
    heading = f"<figcaption>{html.escape(title)}</figcaption>" if title else ""
    source = visualization.data_uri(image)
    return f'<figure class="glow">{heading}<img alt="" width="{width}" src="{source}"></figure>'


def refusal(error: Exception) -> str:
    """The HTML of an error message, on one line."""
    return f'<div class="glow-error">error: {html.escape(" ".join(str(error).split()))}</div>'
