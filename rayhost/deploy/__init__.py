"""What a machine needs to run rayhost as a service, as files: units, container, examples.

Standard library only and no import of the rest of rayhost but its errors: `deploy/install.sh` runs
it with the system's Python straight from the wheel, before anything is installed.
"""
