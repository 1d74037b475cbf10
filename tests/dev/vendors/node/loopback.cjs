// Preloaded into a server that would listen on every interface: it listens on this machine alone.
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (options, ...rest) {
  const given = typeof options === "object" ? options : { port: options };
  return listen.call(this, { ...given, host: "127.0.0.1" }, ...rest);
};
