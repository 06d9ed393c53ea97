/* The text form of the IR (grammar: docs/ir.md). Law: print(parse(t)) == t to the byte for every text that the
 * printer wrote, and printing is deterministic: values are numbered in program order per function. */
#ifndef PTC_IR_TEXT_H
#define PTC_IR_TEXT_H

#include "base/strbuf.h"
#include "ir/module.h"

void ir_print_module(StrBuf *buf, const IrModule *m);
void ir_print_func(StrBuf *buf, const IrModule *m, IrFunc func);
/* One op on one line without the newline, e.g. for messages: numbers are those of ir_print_func. */
const char *ir_print_op(Arena *arena, const IrModule *m, IrOp op);

/* Reads a module from text. Errors go to diag with places in file (a number from diag_add_file). Returns NULL
 * when there was any error. The result is well-formed text-wise; run ir_verify on it. Never aborts. */
IrModule *ir_parse_module(Arena *arena, Diag *diag, uint32_t file, const char *text, size_t n_bytes);

#endif
