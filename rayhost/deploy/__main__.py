"""`python3 -m rayhost.deploy`: what `rayhost deploy render` does, without rayhost's libraries."""

import argparse
import sys
from pathlib import Path

from rayhost.deploy.files import GROUPS, render, render_proxy, write
from rayhost.deploy.machine import described
from rayhost.deploy.profile import read_profile, unreachable
from rayhost.deploy.proxy import KINDS, proxy
from rayhost.deploy.settings import settings
from rayhost.errors import RayhostError


def main(arguments: list[str]) -> int:
    """Write the files; return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m rayhost.deploy", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--profile", type=Path, help="profile that will be served")
    parser.add_argument("--memory", default="", help="memory of the machine, as 1GiB; else this")
    parser.add_argument("--cpus", default="", help="CPUs of the service, as in 0-2,4")
    parser.add_argument("--only", choices=GROUPS, help="no other group of files")
    parser.add_argument("--proxy", choices=KINDS, help="only the configuration of this proxy")
    parser.add_argument("--domain", default="", help="domain of the proxy")
    parser.add_argument("--certificate", default="", help="its certificate, if not Let's Encrypt's")
    parser.add_argument("--certificate-key", default="", help="the key of the certificate")
    parser.add_argument("--for-folder", type=Path, help="folder that the profile will lie in")
    given = parser.parse_args(arguments)
    try:
        profile = read_profile(given.profile)
        if given.for_folder:
            why = unreachable(profile, given.profile, given.for_folder)
            if why:
                raise RayhostError(f"{given.profile}: {why}")
        found = settings(profile, described(given.memory), given.cpus)
        if given.proxy:
            pair = given.certificate, given.certificate_key
            front = proxy(found, profile.get("limits", {}), given.domain, *pair)
            files = render_proxy(given.proxy, front)
        else:
            files = render(found, given.only)
        for path in write(files, given.out):
            sys.stdout.write(f"{path}\n")
    except RayhostError as error:
        sys.stderr.write(f"rayhost: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
