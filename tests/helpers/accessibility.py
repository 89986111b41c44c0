"""What axe-core finds in a page."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def findings(page: Page) -> list[tuple[str, str, list[str]]]:
  """Return the serious findings: rule, impact, and elements."""
  found = Axe().run(page).response['violations']
  return [
    (each['id'], each['impact'], [node['html'][:120] for node in each['nodes']][:4])
    for each in found
    if each['impact'] in ('serious', 'critical')
  ]
