#!/bin/sh
# What both images run in /opt/fgvc, as `make install` does into .venv:
#   install.sh packages   the versions of requirements.lock
#   install.sh fgvc       fgvc itself, by its path: a checkout bound over /opt/fgvc takes its place
set -eu
pip() { python -m pip "$@" --no-cache-dir --disable-pip-version-check --root-user-action=ignore; }
case "$1" in
packages)
    pip install -r requirements.lock
    # sahi and mmcv-lite ask for opencv-python, whose cv2 needs libGL; the headless one, put on top, does not.
    pip install --no-deps --force-reinstall "$(grep '^opencv-python-headless==' requirements.lock)"
    ;;
fgvc)
    pip install --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
    fgvc --version
    ;;
esac
