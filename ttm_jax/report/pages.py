"""Render pages with scripts of this package.

Their content security policy allows the one inline script by its hash, and images and videos beside
the page. Nothing else is loaded or run.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import markupsafe

from ttm_jax.report.gallery import environment, shown

_POLICY = (
  "default-src 'none'; img-src 'self' file: data:; media-src 'self' file:;"
  " style-src 'unsafe-inline'; script-src 'sha256-{}'"
)


def render(template: str, scripts: Sequence[str], **values: Any) -> bytes:
  """Return a page as UTF-8.

  Args:
    template: template in this folder. It inserts `policy` and, as its only script, `script`.
    scripts: script files in this folder, joined to one.
    values: values of the template; they are escaped.
  """
  templates = environment('ttm_jax.report')
  templates.filters['shown'] = shown
  assert templates.loader is not None
  script = '\n'.join(templates.loader.get_source(templates, name)[0] for name in scripts)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  page = templates.get_template(template).render(
    policy=_POLICY.format(digest), script=markupsafe.Markup(script), **values
  )
  return page.encode(errors='backslashreplace')  # Names may contain surrogates.
