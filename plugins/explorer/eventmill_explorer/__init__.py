"""The explorer: a page that shows events, over the public routes of the API."""

from eventmill import AsgiApp, HttpApp, Services, hookimpl


def _create_page(services: Services) -> AsgiApp:
    from eventmill_explorer.pages import create_page

    return create_page()


def _create_assets(services: Services) -> AsgiApp:
    from eventmill_explorer.pages import create_assets

    return create_assets()


@hookimpl
def eventmill_http_apps() -> list[HttpApp]:
    """Return the page at / and its scripts and styles below /explorer."""
    return [
        HttpApp("/", _create_page, "open", is_page=True),
        HttpApp("/explorer", _create_assets, "open", is_page=True),
    ]
