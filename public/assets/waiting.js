// For pages without the form: what still waits on this device is sent from here too. The next
// visit to the form tells how it went.

import { start } from "./queue.js";

start(() => {});
