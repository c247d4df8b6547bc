#!/usr/bin/env bash
# An MCAP that tells its channels once: rosbags gives none of its messages, mcap's own reader stops with a KeyError.
#
# Versions: mcap 1.6.0, rosbags 0.11.9.
# Belief: MCAP's specification says that the summary may repeat the channels, and mcap's own Writer has a switch for
#   it; without them there, readers find them in the chunks.
# Behaviour: rosbags opens the file, counts 3 messages, and lists no topic and gives no message, without an error; it
#   looks into the chunks only where the schemas are not repeated either. mcap's make_reader, which takes the seeking
#   reader where there is an index, raises KeyError: 1. mcap's NonSeekingReader gives all three.
# Seen:
#   channels repeated: True
#     rosbags counts 3 topics ['/words'] times [10, 20, 30]
#     make_reader [10, 20, 30]
#     NonSeekingReader [10, 20, 30]
#   channels repeated: False
#     rosbags counts 3 topics [] times []
#     make_reader KeyError 1
#     NonSeekingReader [10, 20, 30]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps mcap==1.6.0 rosbags==0.11.9 numpy==2.4.6 lz4==4.4.5 zstandard==0.25.0 ruamel.yaml==0.19.1 backports.zstd==1.8.0 typing_extensions==4.16.0 apsw==3.54.1.0
venv/bin/python - <<'PY' | tee seen
from pathlib import Path

from mcap.reader import NonSeekingReader, make_reader
from mcap.writer import Writer
from rosbags.rosbag2 import Reader

for repeated in (True, False):
    path = Path(f"repeated-{repeated}.mcap")
    with path.open("wb") as file:
        writer = Writer(file, repeat_channels=repeated)
        writer.start(profile="ros2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.register_channel("/words", "cdr", schema)
        for time in (10, 20, 30):
            writer.add_message(channel, log_time=time, publish_time=time, data=b"\0\1\0\0\2\0\0\0a\0")
        writer.finish()
    print("channels repeated:", repeated)
    with Reader(path) as bag:
        print("  rosbags counts", bag.message_count, "topics", list(bag.topics), "times", [time for _, time, _ in bag.messages()])
    for name, reader in (("make_reader", make_reader), ("NonSeekingReader", NonSeekingReader)):
        with path.open("rb") as file:
            try:
                print(" ", name, [message.log_time for _, _, message in reader(file).iter_messages()])
            except KeyError as error:
                print(" ", name, "KeyError", error)
PY
diff seen - <<'EXPECTED'
channels repeated: True
  rosbags counts 3 topics ['/words'] times [10, 20, 30]
  make_reader [10, 20, 30]
  NonSeekingReader [10, 20, 30]
channels repeated: False
  rosbags counts 3 topics [] times []
  make_reader KeyError 1
  NonSeekingReader [10, 20, 30]
EXPECTED
