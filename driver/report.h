/* A page about a run: one HTML file with all that it needs in it, no script and no network. */
#ifndef PTC_DRIVER_REPORT_H
#define PTC_DRIVER_REPORT_H

#include "driver/driver.h"

/* Reads folder/metrics.jsonl and writes the page to -o (options->output; NULL: stdout). Rows of a run that goes on or
 * was killed are enough; a torn last row is left out. BAD_INPUT names the file and line of a row that cannot be read,
 * and a file without any. */
Status report_write(Arena *arena, const Options *options, const char *folder);

#endif
