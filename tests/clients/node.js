// npm's qemu-qmp: node node.js SOCKET CONVERSATION; prints a line for each answer, then the events.
const fs = require('fs');
const QMP = require('qemu-qmp');

const [socket, file] = process.argv.slice(2);
const steps = JSON.parse(fs.readFileSync(file));
const events = [];
const qmp = new QMP();
const emit = qmp.emit;
qmp.emit = function (name, ...rest) {
  if (rest.length === 1 && typeof rest[0] === 'string' && rest[0].toLowerCase() === name) events.push(rest[0]);
  return emit.call(this, name, ...rest);
};
const ask = (command, args) => new Promise((done) => qmp.execute(command, args, (error, value) => {
  done(error ? { error: error.message } : { return: value });
}));

async function carryOut() {
  for (const [command, first, second] of steps) {
    let answer;
    if (command === 'until') {
      do answer = await ask(first, {});
      while (JSON.stringify(answer.return) !== JSON.stringify(second));
    } else {
      answer = await ask(command, first);
    }
    console.log(JSON.stringify(answer));
  }
  console.log(JSON.stringify({ events }));
  process.exit(0);
}
qmp.connect(socket, (error) => {
  if (error) throw error;
  carryOut();
});
