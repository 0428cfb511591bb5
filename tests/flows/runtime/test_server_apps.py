"""Every route of Prefect and MLflow that writes refuses a foreign Host or Origin, and the content types of forms."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from flows.runtime import environment, request_guard, server_apps

ATTACKS = (
    {"host": "evil.example:4200"},
    {"origin": "https://evil.example"},
    {"content-type": "text/plain"},
    {"content-type": "application/x-www-form-urlencoded"},
)


def writing_routes(app: Any) -> list[tuple[str, str]]:
    """Return (method, path) of the routes that are not only for reading, also those of MLflow's Flask application."""
    flask_apps = [route.app.app for route in app.routes if hasattr(getattr(route, "app", None), "app")]
    rules = [rule for flask_app in flask_apps for rule in flask_app.url_map.iter_rules()]
    routes = [(method, rule.rule) for rule in rules for method in rule.methods - {"OPTIONS"}]
    with contextlib.suppress(AttributeError):
        app = app.api_app  # Prefect's routes are below /api
    routes += [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
    return [(method, path) for method, path in routes if method not in request_guard.READING]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["prefect_app", "mlflow_app"])
def test_every_route_that_writes_refuses_requests_of_other_sites(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "home", lambda: tmp_path)
    monkeypatch.setenv(request_guard.HOSTS, ",".join(request_guard.hosts_of(4200)))
    for variable in ("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "MLFLOW_SERVER_ALLOWED_HOSTS"):
        monkeypatch.setenv(variable, "")  # set by the application; restored after the test
    monkeypatch.setenv("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    app = getattr(server_apps, name)()
    routes = writing_routes(app._app)
    assert len(routes) > 100
    own = {"host": "127.0.0.1:4200", "content-type": "application/json"}
    for method, path in routes:
        is_upload = method == "PUT" and path.startswith(server_apps.ARTIFACTS)
        for attack in ATTACKS if not is_upload else ATTACKS[:2]:
            headers = [(key.encode(), value.encode()) for key, value in (own | attack).items()]
            scope = {"type": "http", "method": method, "path": path, "headers": headers}
            assert app.problem(scope), (method, path, attack)
