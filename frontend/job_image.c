/* A <field> whose part is an image: what is done to it on its way into a batch. */
#include "frontend/expand.h"

#include <stdlib.h>
#include <string.h>

enum
{
    MAX_RESIZE = 16384
};

static const char *const image_attrs[] = {"resize", "crop", "pad", "flip", "mean", "std"};

/* "0.5" or "0.485 0.456 0.406". */
static void read_channels(Expander *x, const XmlElem *e, const char *name, double low, double absent,
                          double out_values[3], Span *out_span)
{
    const char *text;
    int n = 0;
    for (int c = 0; c < 3; c++)
        out_values[c] = absent;
    if (!xml_attr(e, name) || !attr_text(x, e, name, &text))
        return;
    *out_span = attr_or_elem_span(e, name);
    bool right = true;
    while (right && *(text += strspn(text, " ")))
    {
        char *end;
        const double value = strtod(text, &end);
        right = n < 3 && end != text && (*end == ' ' || !*end) && value >= low && value <= 1e6;
        if (right)
            out_values[n++] = value;
        text = end;
    }
    if (!right || (n != 1 && n != 3))
        expand_error(x, *out_span, NULL, "%s wants one number, or three, of at least %g", name, low);
    for (int c = n; n == 1 && c < 3; c++)
        out_values[c] = out_values[0];
}

void job_image(Expander *x, const XmlElem *e, DataField *field)
{
    DataImage *image = &field->image;
    if (!field->part || strcmp(field->part, "image") != 0)
    {
        for (size_t i = 0; i < sizeof image_attrs / sizeof image_attrs[0]; i++)
            if (xml_attr(e, image_attrs[i]))
                expand_error(x, xml_attr_name_span(xml_attr(e, image_attrs[i])), NULL,
                             "attribute '%s' goes with part image only", image_attrs[i]);
        return;
    }
    if (!attr_int(x, e, "resize", 0, MAX_RESIZE, &image->resize) || !attr_text(x, e, "crop", &image->crop) ||
        !attr_int(x, e, "pad", 0, MAX_RESIZE, &image->pad) || !attr_bool(x, e, "flip", &image->flip))
        return;
    read_channels(x, e, "mean", 0, 0, image->mean, &image->span);
    read_channels(x, e, "std", 1e-6, 1, image->std, &image->span);
    if (image->pad && strcmp(image->crop, "random") != 0)
        expand_error(x, attr_or_elem_span(e, "pad"), NULL, "pad goes with crop=\"random\" only");
    if (image->resize && strcmp(image->crop, "none") == 0)
        expand_error(x, attr_or_elem_span(e, "resize"), NULL,
                     "resize does not go with crop=\"none\", which stretches the image");
}

void job_image_check(Expander *x, const DataField *field)
{
    const IrType *type = &field->sample_type;
    const bool grey = type->rank == 2, colours = type->rank == 3 && (type->dims[2] == 1 || type->dims[2] == 3);
    if ((type->dtype != DT_F32 && type->dtype != DT_U8) || !(grey || colours) ||
        (field->format == DATA_CIFAR && (grey || type->dims[2] == 1)))
        expand_error(x, field->span, NULL, "an image fills an f32 or u8 <input> of shape %s; each sample of '%s' is %s",
                     field->format == DATA_CIFAR ? "'b h w 3'" : "'b h w', 'b h w 1' or 'b h w 3'", field->name,
                     ir_type_text(x->arena, type));
    else if (type->dtype == DT_U8 && field->image.span.file)
        expand_error(x, field->image.span, NULL, "mean and std go with an f32 <input> only; that of '%s' is u8",
                     field->name);
}
