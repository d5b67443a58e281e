// Of test_supervised_languages.py: libuv's threads (and io_uring, if UV_USE_IO_URING is 1), worker threads, processes.
const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const { Worker, isMainThread, workerData } = require("node:worker_threads");

async function change(path) {
  await fs.promises.writeFile(path, "text");
  await fs.promises.rename(path, path + ".2");
  await fs.promises.unlink(path + ".2");
}

async function main(folder, kept) {
  const worker = new Worker(__filename, { workerData: folder + "/worker" });
  const ended = new Promise((done) => worker.on("exit", done));
  const each = Array.from({ length: 31 }, (_, number) => change(folder + "/js" + number));
  const made = (await Promise.allSettled(each)).filter((one) => one.status === "fulfilled").length;
  console.log("changes " + (made + ((await ended) === 0)));
  for (let i = 0; i < 2; i++) process.stdout.write(execFileSync("/bin/echo", ["child"]));
  try {
    fs.unlinkSync(kept);
    console.log("kept removed");
  } catch (error) {
    console.log("kept " + (error.code === "EPERM" ? "EPERM" : "another error"));
  }
}

if (isMainThread) main(process.argv[2], process.argv[3]);
else change(workerData);
