// Every pick from the first on, in JavaScript: npm install zeromq; node subscribe.mjs tcp://127.0.0.1:5556
import * as zmq from "zeromq";

const address = process.argv[2];
const live = new zmq.Subscriber();
live.subscribe("picks", "heartbeat");
live.connect(address);

let replay = null;
let epoch = null;
let position = 1; // the next sequence number that is lacking

for await (const frames of live) {
  const message = JSON.parse(frames.at(-1).toString());
  if (message.epoch !== epoch) {
    epoch = message.epoch; // another ledger: its numbers start over
    position = 1;
  }
  if (message.type === "heartbeat" && replay === null) {
    replay = new zmq.Request();
    replay.connect(message.replay.replace("*", new URL(address.replace("tcp:", "http:")).hostname));
  }
  // Whatever is missing up to here, this message included, comes out of the ledger.
  while (replay !== null && position <= message.seq) {
    let documents = [message];
    let next = position + 1;
    if (message.type !== "micrograph" || message.seq !== position) {
      await replay.send(JSON.stringify({ from: position, topics: ["picks"] }));
      const [page, ...bodies] = await replay.receive();
      next = JSON.parse(page.toString()).next;
      documents = bodies.map((body) => JSON.parse(body.toString()));
    }
    for (const document of documents) {
      console.log(document.seq, document.micrograph, document.picks.y.length);
    }
    position = next;
  }
}
