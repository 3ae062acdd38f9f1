"""Sphinx extension: repository, issue and Colab buttons, once _config.yml names a published repository."""

from sphinx.application import Sphinx


def add_buttons(app, config):
    """Switch the theme's buttons on; without an address they would lead to somebody else's repository."""
    if config.html_theme_options.get("repository_url"):
        config.html_theme_options |= {
            "use_repository_button": True,
            "use_issues_button": True,
            "launch_buttons": {"colab_url": "https://colab.research.google.com"},
        }


def setup(app: Sphinx):
    app.connect("config-inited", add_buttons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
