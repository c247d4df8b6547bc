#!/usr/bin/env bash
# The last message of an MCAP recording can't be had by its own time; all at once it comes.
#
# Versions: rosbags 0.11.5 (the same in 0.11.0 and 0.11.3); 0.11.7 and 0.11.9 give it.
# Belief: messages(start=t, stop=t + 1) gives the message of the time t, for that is what it gives for all others and what
#   the half-open interval says; a reader that looks single messages up by an index of times may rely on it.
# Behaviour: the last one of the file's chunk is missing, without an error. Reading all of it does not miss it, so the fault
#   shows only in random access, as one frame too few.
# Seen:
#   0.11.5: all [1, 2, 3, 4, 5], one by one [1, 2, 3, 4]
#   0.11.9: all [1, 2, 3, 4, 5], one by one [1, 2, 3, 4, 5]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
cat > read.py <<'PY'
from importlib.metadata import version
from pathlib import Path

from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

SECOND = 10**9
store, kind = get_typestore(Stores.ROS2_HUMBLE), "std_msgs/msg/String"
folder = Path(f"bag-{version('rosbags')}")
with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
    topic = bag.add_connection("/words", kind, typestore=store)
    for second in range(1, 6):
        message = store.types[kind](data=str(second))
        bag.write(topic, second * SECOND, store.serialize_cdr(message, kind))
with Reader(folder) as bag:
    everything = [time // SECOND for _, time, _ in bag.messages()]
    single = []
    for second in everything:
        start = second * SECOND
        single += [time // SECOND for _, time, _ in bag.messages(start=start, stop=start + 1)]
print(f"{version('rosbags')}: all {everything}, one by one {single}")
PY
for release in 0.11.5 0.11.9; do
    venv/bin/pip install --quiet "rosbags==$release"
    venv/bin/python read.py
done | tee seen
diff seen - <<'EXPECTED'
0.11.5: all [1, 2, 3, 4, 5], one by one [1, 2, 3, 4]
0.11.9: all [1, 2, 3, 4, 5], one by one [1, 2, 3, 4, 5]
EXPECTED
