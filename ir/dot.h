/* A picture of a module for Graphviz: one cluster per function, one node per op, one edge per use. */
#ifndef PTC_IR_DOT_H
#define PTC_IR_DOT_H

#include "base/strbuf.h"
#include "ir/module.h"

void ir_print_dot(StrBuf *buf, const IrModule *m);

#endif
