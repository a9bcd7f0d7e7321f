"""Every pick from the first on, with ZeroMQ and JSON alone: nothing of frazil.

python subscribe.py tcp://127.0.0.1:5556
"""

import json
import sys

import zmq

address = sys.argv[1]
context = zmq.Context()
live = context.socket(zmq.SUB)
live.subscribe("picks")
live.subscribe("heartbeat")
live.connect(address)

replay, epoch, position = None, None, 1  # the next sequence number that is lacking
while True:
    message = json.loads(live.recv_multipart()[-1])
    if message["epoch"] != epoch:  # another ledger: its numbers start over
        epoch, position = message["epoch"], 1
    if message["type"] == "heartbeat" and replay is None:
        replay = context.socket(zmq.REQ)
        replay.connect(message["replay"].replace("*", address.split("/")[2].rsplit(":", 1)[0]))
    # Whatever is missing up to here, this message included, comes out of the ledger.
    while replay and position <= message["seq"]:
        if message["type"] == "micrograph" and message["seq"] == position:
            page, documents = {"next": position + 1}, [message]
        else:
            replay.send_json({"from": position, "topics": ["picks"]})
            page, *bodies = replay.recv_multipart()
            page, documents = json.loads(page), [json.loads(body) for body in bodies]
        for document in documents:
            print(document["seq"], document["micrograph"], len(document["picks"]["y"]), flush=True)
        position = page["next"]
