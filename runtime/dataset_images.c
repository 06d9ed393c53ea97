/* Data format `images`: JPEG and PNG files, in a folder with one folder per class, or named by a column of a table. The
 * classes of a folder are the names of its folders, in order; a split for testing is held to those of the training
 * split. Files are read when their sample is. */
#include "runtime/dataset_images.h"

#include "base/bug.h"
#include "runtime/mapped_file.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <xxhash.h>

enum
{
    MAX_DEPTH = 16 /* folders in folders; symbolic links may form a ring */
};

typedef VEC(const char *) Names;

/* The files that the fields of one folder, or of one column, share. */
struct ImageFiles
{
    const char *path;    /* of the folder or table */
    const char *column;  /* NULL: a folder */
    const char *root;    /* names are relative to it */
    Names names;         /* "class/file.png" */
    VEC(uint64_t) lines; /* table: of each name; folder: its class */
    Names classes;
};

/* ---- transforms, for all formats of images */

Status dataset_image_transform(const DatasetSource *source, ImageTransform *out_transform)
{
    ImageTransform t = source->image;
    const int64_t *dims = source->dims;
    const bool grey = source->rank == 2 || (source->rank == 3 && dims[2] == 1);
    if ((source->elem != ELEM_F32 && source->elem != ELEM_U8) ||
        !(source->rank == 2 || (source->rank == 3 && (dims[2] == 1 || dims[2] == 3))) || dims[0] < 1 || dims[1] < 1 ||
        dims[0] > IMAGE_MAX_SIDE || dims[1] > IMAGE_MAX_SIDE || dims[0] * dims[1] > IMAGE_MAX_PIXELS)
        return status_fail(
            STATUS_BAD_INPUT,
            "data field '%s' (%s): an image is f32 or u8, height x width or height x width x 1 or 3, of at "
            "most %d million pixels",
            source->field, source->path, IMAGE_MAX_PIXELS / 1000000);
    for (int c = 0; c < 3 && source->elem == ELEM_F32; c++)
        ENSURE(t.std[c] > 0);
    t.height = (uint32_t)dims[0];
    t.width = (uint32_t)dims[1];
    t.channels = grey ? 1 : 3;
    t.elem = source->elem;
    *out_transform = t;
    return STATUS_OK;
}

ImageDraw dataset_image_draw(const DatasetPass *pass, uint64_t sample)
{
    return (ImageDraw){.seed = pass->seed, .epoch = pass->epoch, .sample = sample, .augment = pass->augment};
}

/* ---- folders */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool is_image_name(const char *name)
{
    const char *end = strrchr(name, '.');
    return end && (strcasecmp(end, ".jpg") == 0 || strcasecmp(end, ".jpeg") == 0 || strcasecmp(end, ".png") == 0);
}

/* Sorted; hidden ones are left out. */
static Status list_folder(Arena *arena, const char *path, Names *out_names)
{
    DIR *dir = opendir(path);
    if (!dir)
        return status_fail(errno == ENOENT || errno == EACCES || errno == ENOTDIR ? STATUS_BAD_INPUT : STATUS_IO,
                           "cannot open the folder '%s': %s", path, strerror(errno));
    *out_names = (Names){0};
    const struct dirent *entry;
    for (errno = 0; (entry = readdir(dir)) != NULL; errno = 0)
        if (entry->d_name[0] != '.')
            vec_push(arena, out_names, arena_strdup(arena, entry->d_name));
    const int error = errno;
    closedir(dir);
    if (error != 0)
        return status_fail(STATUS_IO, "cannot read the folder '%s': %s", path, strerror(error));
    if (out_names->len)
        qsort(out_names->data, out_names->len, sizeof *out_names->data, compare_names);
    return STATUS_OK;
}

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Adds the images below root/folder. */
static Status add_images(Arena *arena, Arena *scratch, ImageFiles *files, const char *folder, uint64_t class_id,
                         int depth)
{
    Names names;
    if (depth == MAX_DEPTH)
        return status_fail(STATUS_BAD_INPUT, "%s/%s: more than %d folders in one another", files->root, folder,
                           MAX_DEPTH);
    TRY(list_folder(scratch, arena_printf(scratch, "%s/%s", files->root, folder), &names));
    for (uint32_t i = 0; i < names.len; i++)
    {
        const char *name = arena_printf(scratch, "%s/%s", folder, names.data[i]);
        if (is_image_name(name))
        {
            vec_push(arena, &files->names, arena_strdup(arena, name));
            vec_push(arena, &files->lines, class_id);
        }
        else if (is_folder(arena_printf(scratch, "%s/%s", files->root, name)))
            TRY(add_images(arena, scratch, files, name, class_id, depth + 1));
    }
    return STATUS_OK;
}

static Status add_classes(Arena *arena, Arena *scratch, ImageFiles *files)
{
    Names names;
    TRY(list_folder(scratch, files->root, &names));
    for (uint32_t i = 0; i < names.len; i++)
    {
        const uint32_t n_before = files->names.len;
        if (!is_folder(arena_printf(scratch, "%s/%s", files->root, names.data[i])))
            continue;
        TRY(add_images(arena, scratch, files, names.data[i], files->classes.len, 0));
        if (files->names.len == n_before)
            return status_fail(STATUS_BAD_INPUT, "%s/%s: there is no .jpg, .jpeg or .png file in this class",
                               files->root, names.data[i]);
        vec_push(arena, &files->classes, arena_strdup(arena, names.data[i]));
    }
    if (files->classes.len == 0)
        return status_fail(STATUS_BAD_INPUT, "%s: there is no folder of a class in it", files->root);
    return STATUS_OK;
}

/* ---- tables */

/* Names in a table are relative to its folder. */
static Status add_rows(Arena *arena, DatasetShared *shared, const DatasetSource *source, ImageFiles *files)
{
    const Table *table;
    uint32_t column;
    const char *slash = strrchr(files->path, '/');
    files->root = slash ? arena_strndup(arena, files->path, (size_t)(slash - files->path)) : ".";
    TRY(dataset_shared_table(shared, source, &table));
    TRY(table_column(table, source->columns[0], &column));
    for (uint64_t row = 0; row < table_n_rows(table); row++)
    {
        const TableCell cell = table_cell(table, row, column);
        if (cell.n_bytes == 0 || memchr(cell.text, 0, cell.n_bytes))
            return status_fail(STATUS_BAD_INPUT, "%s:%" PRIu64 ": column '%s' is %s", files->path,
                               table_line(table, row), source->columns[0],
                               cell.n_bytes ? "no path: it holds a zero byte" : "empty");
        vec_push(arena, &files->names, arena_strndup(arena, cell.text, cell.n_bytes));
        vec_push(arena, &files->lines, table_line(table, row));
    }
    return STATUS_OK;
}

/* ---- what is shared */

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static Status shared_files(DatasetShared *shared, const DatasetSource *source, const ImageFiles **out_files)
{
    for (uint32_t i = 0; i < shared->images.len; i++)
        if (same_text(shared->images.data[i]->path, source->path) &&
            same_text(shared->images.data[i]->column, source->columns[0]))
        {
            *out_files = shared->images.data[i];
            return STATUS_OK;
        }
    Arena *arena = shared->arena, *scratch = arena_create();
    ImageFiles *files = ARENA_NEW(arena, ImageFiles);
    *files = (ImageFiles){.path = arena_strdup(arena, source->path), .root = source->path};
    if (source->columns[0])
        files->column = arena_strdup(arena, source->columns[0]);
    Status status = files->column ? add_rows(arena, shared, source, files) : STATUS_OK;
    if (!files->column)
    {
        files->root = files->path;
        status = add_classes(arena, scratch, files);
    }
    arena_destroy(scratch);
    TRY(status);
    vec_push(arena, &shared->images, files);
    *out_files = files;
    return STATUS_OK;
}

/* ---- images */

typedef struct
{
    const ImageFiles *files;
    ImageTransform transform;
} ImageField;

static Status path_of(const ImageFiles *files, uint64_t sample, char *path, size_t cap)
{
    const char *name = files->names.data[sample];
    const int n = name[0] == '/' ? snprintf(path, cap, "%s", name) : snprintf(path, cap, "%s/%s", files->root, name);
    if (n < 0 || (size_t)n >= cap)
        return status_fail(STATUS_BAD_INPUT, "%.60s...: the path is too long", name);
    return STATUS_OK;
}

static Status open_file(const ImageFiles *files, uint64_t sample, char *path, size_t cap, MappedFile *out_file)
{
    TRY(path_of(files, sample, path, cap));
    return mapped_file_open(path, out_file);
}

/* Says of which sample a failure is. */
static Status name_sample(const ImageFiles *files, uint64_t sample, const char *path, Status status)
{
    if (status == STATUS_OK)
        return STATUS_OK;
    if (files->column)
        return status_fail(status, "%s:%" PRIu64 ": %s (sample %" PRIu64 "): %s", files->path,
                           files->lines.data[sample], path, sample, status_detail());
    return status_fail(status, "%s (sample %" PRIu64 "): %s", path, sample, status_detail());
}

static Status read_image(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    const ImageField *field = reader->state;
    char path[4096];
    MappedFile file = {0};
    Status status = open_file(field->files, sample, path, sizeof path, &file);
    const ImageDraw draw = dataset_image_draw(pass, sample);
    if (status == STATUS_OK)
        status = image_load(&field->transform, file.data, file.size_bytes, &draw, dst);
    mapped_file_close(&file);
    return name_sample(field->files, sample, path, status);
}

static Status stamp_image(const FieldReader *reader, uint64_t sample, uint64_t *out_stamp)
{
    const ImageFiles *files = ((const ImageField *)reader->state)->files;
    char path[4096];
    struct stat info;
    Status status = path_of(files, sample, path, sizeof path);
    if (status == STATUS_OK && stat(path, &info) != 0)
        status = status_fail(STATUS_IO, "%s", strerror(errno));
    if (status != STATUS_OK)
        return name_sample(files, sample, path, status);
    const int64_t numbers[] = {info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
    const char *name = files->names.data[sample];
    *out_stamp = XXH3_64bits_withSeed(name, strlen(name), XXH3_64bits(numbers, sizeof numbers));
    return STATUS_OK;
}

static Status verify_image(const FieldReader *reader, uint64_t sample)
{
    const ImageField *field = reader->state;
    char path[4096];
    MappedFile file = {0};
    ImageSize size;
    ImageAxis x, y;
    Status status = open_file(field->files, sample, path, sizeof path, &file);
    if (status == STATUS_OK)
        status = image_read_size(file.data, file.size_bytes, &size);
    if (status == STATUS_OK)
        status = image_plan(&field->transform, size, &(ImageDraw){0}, &x, &y);
    mapped_file_close(&file);
    return name_sample(field->files, sample, path, status);
}

static void close_image(FieldReader *reader)
{
    (void)reader; /* all is in what the fields share */
}

static Status open_images(const DatasetSource *source, DatasetShared *shared, const ImageFiles *files,
                          FieldReader *out_reader)
{
    ImageField *field = ARENA_NEW(shared->arena, ImageField);
    field->files = files;
    TRY(dataset_image_transform(source, &field->transform));
    *out_reader = (FieldReader){.n_samples = files->names.len,
                                .state = field,
                                .costly = true,
                                .read = read_image,
                                .verify = verify_image,
                                .stamp = stamp_image,
                                .close = close_image,
                                .field = {.elem = source->elem, .rank = source->rank}};
    memcpy(out_reader->field.dims, source->dims, source->rank * sizeof source->dims[0]);
    return STATUS_OK;
}

/* ---- classes */

static Status read_class(const FieldReader *reader, uint64_t sample, const DatasetPass *pass, void *dst)
{
    (void)pass;
    memcpy(dst, (const int32_t *)reader->state + sample, sizeof(int32_t));
    return STATUS_OK;
}

/* The class of each folder: its place, or the place of its name in the training split. */
static Status map_classes(const DatasetSource *source, const ImageFiles *files, int32_t *out_map)
{
    const DatasetLabels *labels = source->labels;
    for (uint32_t i = 0; i < files->classes.len; i++)
    {
        const char *name = files->classes.data[i];
        const char *const *found = !labels ? NULL
                                   : labels->names
                                       ? bsearch(&name, labels->names, labels->n_labels, sizeof name, compare_names)
                                       : NULL;
        if (labels && !found)
            return status_fail(STATUS_BAD_INPUT, "%s/%s: this class of '%s' is none of the training split's %u",
                               files->root, name, source->field, labels->n_labels);
        out_map[i] = found ? (int32_t)(found - labels->names) : (int32_t)i;
    }
    return STATUS_OK;
}

static Status open_classes(const DatasetSource *source, DatasetShared *shared, const ImageFiles *files,
                           FieldReader *out_reader)
{
    Arena *arena = shared->arena;
    DatasetLabels *labels = ARENA_NEW(arena, DatasetLabels);
    int32_t *map = ARENA_ARRAY(arena, int32_t, files->classes.len);
    int32_t *values = ARENA_ARRAY(arena, int32_t, files->names.len);
    TRY(map_classes(source, files, map));
    if (source->n_classes && !source->labels && files->classes.len != source->n_classes)
        return status_fail(STATUS_BAD_INPUT, "%s: there are %u folders of classes, but '%s' has %" PRId64 " classes",
                           files->path, files->classes.len, source->field, source->n_classes);
    for (uint32_t i = 0; i < files->names.len; i++)
        values[i] = map[files->lines.data[i]];
    *labels = (DatasetLabels){.n_labels = files->classes.len, .names = files->classes.data};
    *out_reader = (FieldReader){.n_samples = files->names.len,
                                .state = values,
                                .labels = labels,
                                .read = read_class,
                                .close = close_image,
                                .field = {.elem = ELEM_I32}};
    return STATUS_OK;
}

Status dataset_open_images(const DatasetSource *source, DatasetShared *shared, FieldReader *out_reader)
{
    const ImageFiles *files;
    const bool classes = source->part && strcmp(source->part, "label") == 0;
    if (!source->part || !(classes || strcmp(source->part, "image") == 0) || source->columns[1] ||
        (classes && source->columns[0]))
        return status_fail(
            STATUS_BAD_INPUT,
            "data field '%s' (%s): format 'images' has the part image, of a folder or of one column, and "
            "the part label, of a folder",
            source->field, source->path);
    if (!source->columns[0] && !is_folder(source->path))
        return status_fail(
            STATUS_BAD_INPUT,
            "'%s' is no folder: format 'images' takes one, or a table and the column that names the files",
            source->path);
    TRY(shared_files(shared, source, &files));
    return classes ? open_classes(source, shared, files, out_reader) : open_images(source, shared, files, out_reader);
}
