"""How large a report's page is, and how long until it answers, in a headless Chromium that is already there.

    python -m tests.report_page report.html

Prints the size, the time from navigation to the first painted viewer (`data-ready`) of each opening, the time until all
error maps of the first image are there, that of the first chart with Plotly's start, and what was asked of the network.
"""

import argparse
import shutil
import time
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=Path)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    asked = parser.parse_args()
    print(f"{asked.page}: {asked.page.stat().st_size / 1e6:.1f} MB")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=asked.browser, args=["--no-sandbox"])
        for _ in range(asked.times):
            page, requests = browser.new_page(viewport={"width": 1280, "height": 900}), []
            page.on("request", lambda request, seen=requests: seen.append(request.url))
            started = time.perf_counter()
            page.goto(asked.page.resolve().as_uri())
            page.wait_for_selector("html[data-ready]", state="attached")
            ready = page.evaluate("performance.getEntriesByName('data-ready')[0].startTime") / 1000
            text = f"ready {ready:.2f} s"
            if page.locator(".viewer").count():
                page.wait_for_selector(".viewer[data-complete]")
                text += f", all maps {time.perf_counter() - started:.2f} s"
                started = time.perf_counter()
                page.locator('[data-part="across"]').first.click()
                page.wait_for_selector('[data-part="profile-chart"][data-drawn]')
                text += f", first chart {time.perf_counter() - started:.2f} s"
            outside = [url for url in requests[1:] if not url.startswith(("data:", "blob:"))]
            print(f"{text}, requests beyond the page: {len(outside)}")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
