#include "ir/dot.h"

static const char *colour_of(IrPhase phase)
{
    return phase == IR_PHASE_FORWARD ? "black" : phase == IR_PHASE_BACKWARD ? "blue" : "darkgreen";
}

static void print_node(StrBuf *buf, const IrModule *m, IrOp op)
{
    const IrOpData *data = ir_op(m, op);
    const char *detail = ir_attrs_str(&data->attrs, IR_ATTR_global);
    if (!detail)
        detail = ir_attrs_str(&data->attrs, IR_ATTR_fn);
    strbuf_addf(buf, "    o%u [label=\"%s%s%s", op, ir_op_info(data->code)->name, detail ? " " : "",
                detail ? detail : "");
    for (uint32_t i = 0; i < data->n_results; i++)
        strbuf_addf(buf, "\\n%s", ir_type_text(buf->arena, ir_value_type(m, data->results[i])));
    strbuf_addf(buf, "\", color=%s];\n", colour_of(data->phase));
    for (uint32_t i = 0; i < data->n_operands; i++)
        strbuf_addf(buf, "    o%u -> o%u;\n", ir_value(m, data->operands[i])->def, op);
}

void ir_print_dot(StrBuf *buf, const IrModule *m)
{
    strbuf_add(buf, "digraph ptc {\n  node [shape=box, fontname=monospace];\n");
    IR_FOR_FUNCS(m, f)
    {
        strbuf_addf(buf, "  subgraph cluster_%u {\n    label=\"@%s\";\n", f, ir_func(m, f)->name);
        IR_FOR_OPS(m, f, op)
        print_node(buf, m, op);
        strbuf_add(buf, "  }\n");
    }
    strbuf_add(buf, "}\n");
}
