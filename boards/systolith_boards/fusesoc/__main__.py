"""`python -m systolith_boards.fusesoc`: where FuseSoC finds the core."""

from systolith_boards.fusesoc import CORES_ROOT

if __name__ == "__main__":
    print(CORES_ROOT)
