// The network of "Paint a defect", off the main thread: one question is answered at a time,
// and while an answer is due only the newest question waits, so that painting never does.
const paintNetwork = (model, onAnswer) => {
  "use strict";
  let open = null, waiting = null; // the question being answered, and the next one
  let send = null, watchers = [];
  const handle = {
    worker: true,

    /** question: { image, changed }; `changed` is when its oldest change was made. */
    ask(question) {
      if (open) waiting = { ...question, changed: (waiting ?? question).changed };
      else send((open = question));
    },

    /** A promise: nothing is asked any more, and the last answer was taken. */
    settled: () => new Promise((done) => { if (open) watchers.push(done); else done(); }),
  };

  function answered(answer) {
    open = null;
    if (waiting) handle.ask(waiting);
    waiting = null;
    onAnswer(answer);
    if (!open) watchers.splice(0).forEach((done) => done());
  }

  /** Where no worker may start, the page itself computes, between two events. */
  function withoutWorker() {
    const energy = new PatchMath.PatchEnergy(model);
    handle.worker = false;
    send = (question) => setTimeout(() => answered(PatchMath.respond(energy, question)));
    if (open) send(open);
  }

  try { // a page read from file:// may not fetch a script: the worker starts from its text
    const text = `const math = (${PatchMath.source})(); let energy = null;
      onmessage = ({ data }) => {
        if (data.weights) energy = new math.PatchEnergy(data);
        else postMessage(math.respond(energy, data));
      };`;
    const script = new Blob([text], { type: "text/javascript" });
    const worker = new Worker(URL.createObjectURL(script));
    worker.onmessage = ({ data }) => answered(data);
    worker.onerror = withoutWorker;
    worker.postMessage(model);
    send = (question) => worker.postMessage(question);
  } catch { withoutWorker(); }
  return handle;
};
