/* Prints a stage of a nest: index expressions, instructions, and the phases of a row body in C; those in CUDA are in
 * codegen/nest_cuda.h. */
#ifndef PTC_CODEGEN_NEST_PRINT_H
#define PTC_CODEGEN_NEST_PRINT_H

#include "base/strbuf.h"
#include "codegen/cuda_shape.h"

enum
{
    PRINT_MAX_LEVELS = 16,
    LEVEL_TASK = 0,
    LEVEL_ROW = 1,
    LEVEL_INNER = 2,  /* the outermost inner loop; deeper ones follow */
    LEVEL_VECTOR = 2, /* CUDA with a shape: once for a vector */
    LEVEL_ELEMENT = 3
};

typedef struct
{
    uint32_t atom;
    int64_t div, mod;
    uint32_t name;
} PrintDigit;

typedef struct
{
    Arena *arena;
    const Nest *nest;
    const NestStage *stage;
    bool cuda;
    const CudaShape *shape; /* CUDA: of the main stage; NULL for final ones, where a thread has one element */
    uint32_t now;           /* with a shape: VECTOR or ELEMENT, what is being printed */
    bool at_vector;         /* positions are those of the vector's first element */
    uint8_t *levels;        /* by instruction: 1 + its level, once it is known */
    bool flat;              /* one loop over f; digits are real divisions */
    int64_t rows, inner;    /* of the loops: a flat stage may be cut in rows */
    uint32_t n_chain;       /* inner loops: chain[0] = 1 < ... < chain[n_chain] = inner, each divides the next */
    int64_t chain[PRINT_MAX_LEVELS];
    StrBuf task;                    /* before the row loop */
    StrBuf ahead;                   /* CUDA: loads of row o before its turn (nest_load_is_ahead) */
    StrBuf level[PRINT_MAX_LEVELS]; /* the phase being printed */
    StrBuf body;                    /* inside the row loop */
    VEC(PrintDigit) digits;         /* quotients of the row number that have a name */
    VEC(Idx) bases;                 /* per-row parts of addresses that have a name */
    bool *atom_named;               /* atoms that have a name where the text is now */
    uint32_t n_names;
} NestPrinter;

/* Sets the loops up; cuts a flat stage in rows where its index expressions want it (not for CUDA). */
NestPrinter nest_printer_make(Arena *arena, const Nest *nest, const NestStage *stage, bool cuda);

/* The innermost loop's level, and the level of the loop that an index expression changes in. */
uint32_t nest_innermost(const NestPrinter *p);
uint32_t nest_index_level(const NestPrinter *p, Idx e);
/* An integer expression for e; parts that change by row only get a name in the row part. */
const char *nest_index_text(NestPrinter *p, Idx e);
/* The position within the row. */
const char *nest_row_position(const NestPrinter *p);

/* Adds text that has one statement or brace per line, indented. */
void nest_print_indented(StrBuf *out, const char *text);

/* "const float *const a0 = (const float *)bufs[0];" for all operands and results. */
void nest_print_pointers(StrBuf *out, const Nest *nest);
/* "const float *a0, float *z0, char *workspace" */
void nest_print_parameters(StrBuf *out, const Nest *nest);
/* Storage type and register type of a dtype. */
const char *nest_storage_type(DType dtype);
const char *nest_register_type(DType dtype);

/* The level of the loop that an instruction is computed in, its right-hand side, and how others refer to its value. */
uint32_t nest_inst_level(const NestPrinter *p, NestInst inst);
const char *nest_inst_text(NestPrinter *p, NestInst inst);
/* CUDA with a shape: a load that is begun while the row before is computed. */
bool nest_load_is_ahead(const NestPrinter *p, NestInst inst);
/* CUDA with a shape: random numbers that are made for a vector at a time. */
bool nest_random_is_wide(const NestPrinter *p, NestInst inst);
/* Such numbers that are only compared with constants: their value is the word. */
bool nest_random_is_compared(const NestPrinter *p, NestInst inst);
const char *nest_value_text(const NestPrinter *p, NestInst inst);
/* A value as what is stored for it. */
const char *nest_store_text(const NestPrinter *p, DType dtype, const char *value);

/* Fills task, body: the row body with all phases, in C. */
void nest_print_body(NestPrinter *p);
/* The number of loops from LEVEL_INNER on. */
static inline uint32_t nest_n_inner(const NestPrinter *p)
{
    return p->flat || p->cuda ? 1 : p->n_chain;
}

#endif
