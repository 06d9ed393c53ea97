# ptc_layer(TARGET [LAYERS target...] [LIBS library...])
#
# Declares the current folder as one layer: a static library of its *.c files (an interface library while it has none).
# Headers are found through BUILD/layers/FOLDER/FOLDER -> SOURCE/FOLDER, and a target sees only its own layer directory
# and those of the LAYERS below it, so `#include "ir/module.h"` from base/ does not compile (tests/layering proves it).
# LIBS are external libraries.

# Makes LINK point at FOLDER (a symbolic link, so that headers are never copied).
function(ptc_link_folder folder link)
    get_filename_component(parent ${link} DIRECTORY)
    file(MAKE_DIRECTORY ${parent})
    file(CREATE_LINK ${folder} ${link} SYMBOLIC)
endfunction()

# Sets OUT_DIR to the include root of the current folder's layer.
function(ptc_layer_root out_dir)
    get_filename_component(folder ${CMAKE_CURRENT_SOURCE_DIR} NAME)
    set(root ${CMAKE_BINARY_DIR}/layers/${folder})
    ptc_link_folder(${CMAKE_CURRENT_SOURCE_DIR} ${root}/${folder})
    set(${out_dir} ${root} PARENT_SCOPE)
endfunction()

function(ptc_layer target)
    cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "LAYERS;LIBS")
    if(ARG_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "ptc_layer(${target}): unknown arguments ${ARG_UNPARSED_ARGUMENTS}")
    endif()
    ptc_layer_root(root)
    file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
    if(sources)
        add_library(${target} STATIC ${sources})
        set(scope PUBLIC)
    else()
        add_library(${target} INTERFACE)
        set(scope INTERFACE)
    endif()
    target_include_directories(${target} ${scope} ${root})
    target_link_libraries(${target} ${scope} ${ARG_LAYERS} ${ARG_LIBS})
endfunction()
