#!/usr/bin/env bash
# Draws docs/timeline.png again: the page of the history that examples/history.py writes, at one moment of it.
# Needs root, for a /srv of its own, what `./dev setup` installs, and the font Inter (Debian: fonts-inter).
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
position=${1:-119}

unshare --mount bash -euo pipefail -s "$PWD" "$position" <<'TEXT'
mount -t tmpfs tmpfs /srv
export TZ=UTC
"$1/.venv/bin/python" "$1/examples/history.py" /srv/lading
"$1/.venv/bin/lading" --root /srv/lading timeline --html /srv/page.html
chromium --headless=new --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir=/srv/profile \
  --window-size=1480,1100 --virtual-time-budget=2000 --screenshot="$1/docs/timeline.png" \
  "file:///srv/page.html#$2" 2>/dev/null
TEXT
