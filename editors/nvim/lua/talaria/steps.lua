--- Draws each denoising step where its text will be written.
local api = vim.api
local M = {}

local MASK = "░"
local namespace = api.nvim_create_namespace("talaria.steps")
---The pieces of the last step in each buffer.
local former = {} ---@type table<integer, (string|vim.NIL)[]?>

---Texts with their highlights, split into lines.
---@param chunks [string, string][]
---@return [string, string][][]
function M.lines(chunks)
  local lines = { {} } ---@type [string, string][][]
  for _, chunk in ipairs(chunks) do
    for number, part in ipairs(vim.split(chunk[1], "\n", { plain = true })) do
      if number > 1 then lines[#lines + 1] = {} end
      table.insert(lines[#lines], { part, chunk[2] })
    end
  end
  return lines
end

---Remove the drawn step.
---@param buf integer
function M.clear(buf)
  former[buf] = nil
  if api.nvim_buf_is_valid(buf) then api.nvim_buf_clear_namespace(buf, namespace, 0, -1) end
end

---Handle `talaria/step`: draw it, if the buffer still has the version it is for.
---@param params { uri: string, version: integer, position: lsp.Position, pieces: string[] }
---@param context lsp.HandlerContext
function M.draw(_, params, context)
  local buf = vim.uri_to_bufnr(params.uri)
  local client = vim.lsp.get_client_by_id(context.client_id)
  if not client or vim.lsp.util.buf_versions[buf] ~= params.version then return M.clear(buf) end
  local range = { start = params.position, ["end"] = params.position }
  local place = { uri = params.uri, range = range }
  local found = vim.lsp.util.locations_to_items({ place }, client.offset_encoding)[1]
  local before, chunks = former[buf] or {}, {}
  for index, piece in ipairs(params.pieces) do
    local masked = piece == vim.NIL
    local committed = piece == before[index] and "TalariaStep" or "TalariaFresh"
    chunks[index] = { masked and MASK or piece, masked and "TalariaMask" or committed }
  end
  local lines = M.lines(chunks)
  -- Cover the rest of a placeholder that is longer than the text.
  table.insert(lines[1], { (" "):rep(api.nvim_strwidth(found.text:sub(found.col))), "Normal" })
  M.clear(buf)
  former[buf] = params.pieces
  api.nvim_buf_set_extmark(buf, namespace, found.lnum - 1, found.col - 1, {
    virt_text = lines[1],
    virt_text_pos = "overlay",
    virt_lines = vim.list_slice(lines, 2),
  })
end

return M
