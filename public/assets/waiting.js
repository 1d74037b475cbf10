// For pages without the form: what waits is sent from here too; the form tells of it later.

import { start } from "./queue.js";

start(() => {});
